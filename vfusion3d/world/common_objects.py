"""The common categories: what "3D data" knows in the miniature world.

One function a category, from proportions and a generator to parts. z is up, fronts face +x, sizes are of order 1 (the
whole is scaled to the ball afterwards). The generator decides on optional parts, counts and the fine proportions.
"""

import numpy as np

from vfusion3d.world.parts import Part, Proportions
from vfusion3d.world.shapes import Shape, arc, ball, box, cylinder, join, lathe, pipe, prism, rounded_box, skin, tube

TAU = 2 * np.pi


def mug(p: Proportions, rng: np.random.Generator) -> list[Part]:
    height, radius = 0.95 * p.height, 0.42 * p.width
    foot, wall = radius * rng.uniform(0.78, 1.0), 0.05
    body = lathe([(0, 0), (foot, 0), (radius, height), (radius - wall, height), (foot - wall, wall), (0, wall)], 32)
    reach, rise = rng.uniform(0.24, 0.32), height * rng.uniform(0.28, 0.36)
    if rng.random() < 0.7:
        loop = arc((0, 0), (reach, rise), -TAU / 4, TAU / 4, 13)
    else:  # a square handle
        loop = np.array([(0, -1), (0.8, -1), (1, -0.8), (1, 0.8), (0.8, 1), (0, 1)]) * (reach, rise)
    start = (foot + radius) / 2 - 0.03
    path = np.stack([np.zeros(len(loop)), start + loop[:, 0], height * 0.52 + loop[:, 1]], -1)
    handle = tube(path, 0.06)
    return [Part(body, along="around"), Part(handle, "accent" if rng.random() < 0.35 else "main", "around")]


def chair(p: Proportions, rng: np.random.Generator) -> list[Part]:
    width, depth, leg, back = 0.72 * p.width, 0.68, 0.55 * p.height, 0.75 * p.height
    seat = rounded_box(depth, width, 0.12, 0.05).at(z=leg)
    top = leg + 0.1
    if rng.random() < 0.55:
        rest = [rounded_box(0.1, width, back, 0.045).at(x=0.05 - depth / 2, z=top)]
    else:  # posts and slats
        posts = [box(0.08, 0.09, back).at(0.04 - depth / 2, side * (width / 2 - 0.045), top) for side in (-1, 1)]
        count = int(rng.integers(2, 4))
        slat = box(0.07, width - 0.1, 0.62 * back / count)
        heights = [top + back * (0.97 * (i + 1) / count) - 0.62 * back / count for i in range(count)]
        rest = posts + [slat.at(0.04 - depth / 2, 0, z) for z in heights]
    style = rng.random()
    if style < 0.75:
        post = cylinder(0.05, leg + 0.02, 0.06) if style < 0.4 else box(0.09, 0.09, leg + 0.02)
        legs = post.at_corners(depth / 2 - 0.07, width / 2 - 0.07)
    else:  # an office chair's star
        column = cylinder(0.06, leg)
        feet = (tube([(0, 0, 0.1), (0.42, 0, 0.05)], 0.05).turned("z", i * TAU / 5) for i in range(5))
        legs = join(column, *feet)
    parts = [Part(join(seat, *rest)), Part(legs, ("wood", "accent", "metal")[rng.integers(3)])]
    if rng.random() < 0.3:
        arm = join(box(depth * 0.8, 0.08, 0.07).at(x=-0.05, z=top + 0.26), box(0.07, 0.07, 0.28).at(x=0.2, z=top))
        parts.append(Part(arm.on_both_sides(y=width / 2 - 0.02), parts[1].paint))
    return parts


def table(p: Proportions, rng: np.random.Generator) -> list[Part]:
    height, width, length = 0.72 * p.height, 0.85 * p.width, rng.uniform(0.9, 1.3) * p.width
    legs_of = ("wood", "accent", "metal")[rng.integers(3)]
    cloth = 0.1 if rng.random() < 0.6 else 0.24  # a bare thick top, or a cloth that hangs down
    if rng.random() < 0.35:
        radius = 0.55 * p.width
        top = cylinder(radius, cloth, segments=36).at(z=height - cloth)
        legs = join(cylinder(0.08, height - 0.05), cylinder(0.34 * p.width, 0.07, 0.3 * p.width))
        return [Part(top, along="x"), Part(legs, legs_of)]
    top = box(width, length, cloth).at(z=height - cloth)
    if rng.random() < 0.8:
        leg = box(0.09, 0.09, height - 0.05) if rng.random() < 0.6 else cylinder(0.04, height - 0.05, 0.07)
        legs = leg.at_corners(width / 2 - 0.08, length / 2 - 0.08)
    else:  # trestles
        trestle = box(width * 0.7, 0.09, height - 0.05, 0.5)
        legs = trestle.on_both_sides(y=length / 2 - 0.15)
    return [Part(top, along="y"), Part(legs, legs_of)]


def lamp(p: Proportions, rng: np.random.Generator) -> list[Part]:
    height, radius = 0.85 * p.height, 0.45 * p.width
    if rng.random() < 0.5:
        stand = join(cylinder(0.28, 0.07, 0.24), cylinder(0.045, height))
    else:  # a bellied foot
        belly = rng.uniform(0.16, 0.24)
        z = np.linspace(0, 1, 13)
        curve = np.stack([0.06 + belly * np.sin(np.pi * z**0.8) ** 1.5, z * height * 0.75], -1)
        stand = join(lathe(curve), cylinder(0.04, height), cylinder(0.2, 0.06))
    low, high = height - 0.12, height + rng.uniform(0.4, 0.5)
    top = radius * rng.choice([0.45, 0.65, 1.0])
    shade = lathe([(radius - 0.03, low), (radius, low), (top, high), (top - 0.03, high)], 32, loop=True)
    bulb = ball(0.13).at(z=height + 0.08)
    return [
        Part(shade, along=("around", "z")[rng.integers(2)]),
        Part(bulb, "lamplight"),
        Part(stand, ("accent", "metal", "wood", "gold")[rng.integers(4)]),
    ]


def car(p: Proportions, rng: np.random.Generator) -> list[Part]:
    length, width, height = 1.5 * p.length, 0.66, 0.32 * p.height
    wheel, clear = rng.uniform(0.16, 0.2), 0.13
    body = rounded_box(length, width, height, 0.09).at(z=clear)
    roof = clear + height
    kind = rng.choice(["saloon", "hatchback", "pickup"])
    cabin_length = {"saloon": 0.52, "hatchback": 0.68, "pickup": 0.36}[kind] * length
    cabin_x = {"saloon": -0.04, "hatchback": -0.14, "pickup": 0.06}[kind] * length
    cabin_height = rng.uniform(0.26, 0.32) * p.height
    cabin = box(cabin_length, width * 0.92, cabin_height, 0.74).at(cabin_x, 0, roof - 0.04)
    pane = box(cabin_length * 0.76, width * 0.95, cabin_height * 0.62, 0.8).at(cabin_x, 0, roof + 0.02)
    front = box(cabin_length * 1.02, width * 0.68, cabin_height * 0.62, 0.8).at(cabin_x, 0, roof + 0.02)
    parts = [Part(join(body, cabin), along="x"), Part(join(pane, front), "glass")]
    if kind == "pickup":
        parts.append(Part(box(0.36 * length, width * 0.8, 0.02).at(-0.29 * length, 0, roof), "coal"))
    disc = cylinder(wheel, 0.14).sideways()
    hub = cylinder(wheel * 0.5, 0.17, segments=12).sideways()
    place = (length * 0.31, width / 2 - 0.03, wheel)
    parts += [Part(disc.at_corners(*place), "tyre"), Part(hub.at_corners(*place), "metal")]
    lights = ball(0.05, 0.08, 0.06, 12).on_both_sides(length / 2 - 0.02, width * 0.32, roof - 0.12)
    tails = box(0.04, 0.14, 0.08).on_both_sides(-length / 2, width * 0.33, roof - 0.17)
    bumper = rounded_box(0.08, width * 0.9, 0.08, 0.03).at(length / 2, 0, clear + 0.02)
    return [*parts, Part(lights, "lamplight"), Part(tails, "cherry"), Part(bumper, "metal")]


def house(p: Proportions, rng: np.random.Generator) -> list[Part]:
    width, depth, height = 1.0 * p.width, rng.uniform(0.75, 0.95), rng.uniform(0.68, 0.82) * p.height
    walls = box(depth, width, height)
    peak = rng.uniform(0.32, 0.46)
    hip = rng.random() < 0.3
    if hip:
        roof = box(depth + 0.14, width + 0.14, peak, 0.25).at(z=height - 0.005)
    else:
        gable = np.array([(-width / 2 - 0.1, -0.05), (width / 2 + 0.1, -0.05), (0, peak)])
        roof = prism(gable, depth + 0.14).facing_x().at(-depth / 2 - 0.07, 0, height)
    door_y = rng.choice([-0.25, 0.0, 0.25]) * width
    door = box(0.06, 0.19, 0.34).at(depth / 2, door_y)
    pane = box(0.05, 0.17, 0.17)
    panes = [pane.at(depth / 2, y * width, height * 0.55) for y in (-0.33, 0.0, 0.33) if abs(y * width - door_y) > 0.2]
    side = pane.turned("z", TAU / 4)
    panes += [side.at(x * depth, y * width / 2, height * 0.5) for x in (-0.25, 0.25) for y in (-1, 1)]
    parts = [
        Part(walls, along="z"),
        Part(roof, ("accent", "accent", "cherry", "coal")[rng.integers(4)]),
        Part(door, "wood"),
        Part(join(*panes), "glass"),
    ]
    if rng.random() < 0.7:
        x, y = rng.choice([-0.22, 0.22]) * depth, rng.choice([-0.27, 0.27]) * width
        parts.append(Part(box(0.14, 0.14, peak * 0.95).at(x, y, height + 0.05), "stone"))
    return parts


def tree(p: Proportions, rng: np.random.Generator) -> list[Part]:
    trunk_height = rng.uniform(0.42, 0.55) * p.height
    trunk = cylinder(0.11, trunk_height + 0.25, 0.08)
    kind = rng.choice(["fir", "round", "bushy"])
    if kind == "fir":
        tiers = int(rng.integers(2, 5))
        size, z = 0.48 * p.width, trunk_height * 0.9
        parts = []
        for i in range(tiers):
            tier = size * (1 - 0.62 * i / tiers)
            high = 1.15 / tiers**0.7 * p.height
            parts.append(cylinder(tier, high, 0.02 if i == tiers - 1 else tier * 0.12).at(z=z))
            z += high * 0.56
        crown = join(*parts)
    elif kind == "round":
        crown_height = rng.uniform(0.4, 0.55) * p.height
        crown = ball(0.46 * p.width, 0.46 * p.width, crown_height).at(z=trunk_height + 0.9 * crown_height)
    else:
        middle = trunk_height + 0.38 * p.height
        count, turn = int(rng.integers(4, 6)), rng.uniform(0, TAU)
        ring_of = []
        for angle in turn + np.arange(count) * TAU / count:
            bush = ball(rng.uniform(0.26, 0.32) * p.width, segments=18)
            x, y = 0.27 * p.width * np.cos(angle), 0.27 * p.width * np.sin(angle)
            ring_of.append(bush.at(x, y, middle + rng.uniform(-0.1, 0.1)))
        crown = join(*ring_of, ball(0.36 * p.width, segments=18).at(z=middle + 0.26 * p.height))
    parts = [Part(crown, along="z"), Part(trunk, "wood")]
    if kind == "bushy" and rng.random() < 0.5:
        parts.append(Part(tube([(0, 0, trunk_height * 0.6), (0, 0.3, trunk_height + 0.2)], 0.05), "wood"))
    return parts


def bottle(p: Proportions, rng: np.random.Generator) -> list[Part]:
    body, radius = rng.uniform(0.75, 0.95) * p.height, rng.uniform(0.25, 0.3) * p.width
    neck, shoulder, neck_height = radius * rng.uniform(0.32, 0.42), rng.uniform(0.18, 0.4), rng.uniform(0.16, 0.3)
    t = np.linspace(0, 1, 9)[:, None]
    ease = (1 - np.cos(np.pi * t)) / 2
    curve = np.concatenate([radius + (neck - radius) * ease, body + shoulder * t], 1)
    top = body + shoulder + neck_height * p.height
    profile = [(0, 0), (radius * 0.9, 0), (radius, 0.05), *curve, (neck, top), (0, top)]
    cap = cylinder(neck * 1.25, 0.13).at(z=top - 0.03)
    parts = [Part(lathe(profile, 32), along="z"), Part(cap, ("accent", "metal", "wood")[rng.integers(3)])]
    if rng.random() < 0.4:
        parts.append(Part(pipe(radius + 0.012, radius - 0.02, body * 0.3, 32).at(z=body * 0.3), "paper"))
    return parts


def hat(p: Proportions, rng: np.random.Generator) -> list[Part]:
    kind = rng.choice(["top hat", "sun hat", "cowboy", "cap"])
    crown = 0.36 * p.width
    high = {"top hat": 0.62, "sun hat": 0.34, "cowboy": 0.42, "cap": 0.34}[kind] * p.height
    if kind == "cap":
        half = arc((0, 0), (0.44 * p.width, high), 0.0, TAU / 4, 9)
        half[-1, 0] = 0
        peak = cylinder(0.42, 0.05, segments=28).sized(0.9 * p.width, 0.85 * p.width, 1).at(x=0.36 * p.width)
        return [
            Part(lathe(half, 32), along="around"),
            Part(peak, "accent" if rng.random() < 0.5 else "main", "around"),
            Part(ball(0.05, segments=12).at(z=high), "accent"),
        ]
    brim = {"top hat": 0.56, "sun hat": 0.78, "cowboy": 0.74}[kind] * p.width
    if kind == "sun hat":
        dome_of = arc((0, 0.04), (crown, high), 0, TAU / 4, 9)
    elif kind == "top hat":
        dome_of = np.array([(crown * 0.94, 0.04), (crown * 1.04, high), (0, high)])
    else:
        side = [(crown, 0.04), (crown * 0.92, high * 0.8), (crown * 0.72, high)]
        dome_of = np.array([*side, (crown * 0.3, high * 0.86), (0, high * 0.84)])
    dome_of[-1, 0] = 0
    profile = [(0, 0), (brim * 0.97, 0), (brim, 0.025), (brim * 0.97, 0.05), *dome_of]
    whole = lathe(profile, 36)
    if kind == "cowboy":  # the brim rolls up at the sides
        vertices = whole.vertices.copy()
        out = np.maximum(np.abs(vertices[:, 1]) - 0.34 * p.width, 0)
        vertices[:, 2] += 1.1 * out**1.5
        vertices[:, 0] *= 1.15
        whole = type(whole)(vertices, whole.faces)
    band = pipe(crown * 1.05, crown * 0.85, 0.11, 32).at(z=0.05)
    if kind == "cowboy":
        band = band.sized(1.15, 1, 1)
    return [Part(whole, along="around"), Part(band, "accent")]


def book(p: Proportions, rng: np.random.Generator) -> list[Part]:
    """Closed and upright, its spine to the left of its front; or lying; or standing half open."""
    height, width, thick = 1.0 * p.height, 0.72 * p.width, rng.uniform(0.26, 0.4)
    cover = 0.045
    kind = rng.choice(["upright", "lying", "open"], p=(0.45, 0.25, 0.3))
    if kind == "open":
        angle = rng.uniform(0.45, 0.75)  # from flat, each half turns this far forward
        board, leaves = box(cover, width, height).at(y=width / 2), box(thick * 0.5, width - 0.06, height - 0.1)
        leaves = leaves.at(cover / 2 + thick * 0.25, width / 2, 0.05)
        right = [shape.turned("z", -angle) for shape in (board, leaves)]
        left = [shape.sized(1, -1, 1) for shape in right]
        spine = cylinder(cover * 0.9, height, segments=12)
        return [Part(join(right[0], left[0], spine), along="z"), Part(join(right[1], left[1]), "paper")]
    boards = [box(cover, width, height).at(x=side * (thick / 2 + cover / 2)) for side in (-1, 1)]
    spine = cylinder(thick / 2 + cover, height, segments=24).sized(1, 0.35, 1).at(y=-width / 2)
    leaves = box(thick, width - 0.04, height - 0.03).at(0, -0.01, 0.015)
    label = box(cover, width * 0.55, height * 0.16).at(thick / 2 + cover * 0.7, 0.02, height * 0.62)
    parts = [Part(join(*boards, spine), along="z"), Part(leaves, "paper"), Part(label, "gold")]
    if rng.random() < 0.5:
        parts = parts[:2]
    if kind == "lying":  # front up, the head of the page away from +x
        parts = [Part(part.shape.turned("y", -TAU / 4), part.paint, "x" if part.along else "") for part in parts]
    return parts


def _sail(foot: float, height: float) -> Shape:
    """A triangular sail in the x-z plane, from the mast at x = 0 back to x = -foot, bellied out to +y by the wind."""
    s = np.concatenate([np.linspace(0, 1, 9), np.linspace(1, 0, 9)])
    side = np.repeat([0.012, -0.012], 9)
    rings = []
    for t in np.linspace(0, 0.98, 9):
        belly = 0.3 * foot * np.sin(np.pi * s**0.8) * (1 - t) * (0.35 + t)
        rings.append(np.stack([-s * foot * (1 - t), belly + side, np.full(18, t * height)], -1))
    return skin(np.array(rings))


def boat(p: Proportions, rng: np.random.Generator) -> list[Part]:
    length, beam, depth = 1.5 * p.length, 0.5 * p.width, 0.34 * p.height
    stations = np.linspace(-1, 1, 15)
    half = beam / 2 * np.where(stations < 0, 1 - 0.25 * stations**2, 1 - np.abs(stations) ** 2.2)[:, None]
    half = np.maximum(half, 0.004)
    sheer = (depth + 0.16 * np.maximum(stations, 0) ** 2 + 0.05 * stations**2)[:, None]
    keel = (0.22 * np.maximum(stations - 0.35, 0) ** 1.5)[:, None]
    x = stations[:, None] * length / 2
    wall = 0.82  # the inside starts this far out, and has its floor at half the depth
    y = half * np.array([1.0, 0.82, 0.35, -0.35, -0.82, -1.0, -wall, -0.6, 0.6, wall])
    bilge = keel + (sheer - keel) * 0.35
    floor = sheer * 0.6
    z = np.concatenate([sheer, bilge, keel, keel, bilge, sheer, sheer, floor, floor, sheer], axis=1)
    rings = np.stack([np.broadcast_to(x, y.shape), y, z], -1)[:, ::-1]
    hull = skin(rings)
    kind = rng.choice(["sail", "tug", "rowing"], p=(0.5, 0.35, 0.15))
    parts = [Part(hull, along="x")]
    if kind == "sail":
        mast, foot, boom = rng.uniform(1.1, 1.4) * p.height, 0.1 * length, rng.choice([-1, 1]) * rng.uniform(0.25, 0.6)
        parts.append(Part(cylinder(0.035, mast + 0.1, segments=10).at(foot, 0, 0.2), "wood"))
        z0 = depth + 0.16
        sails = [_sail(0.46 * length + foot, mast + 0.22 - z0).turned("z", boom).at(foot - 0.03, 0, z0)]
        if rng.random() < 0.7:
            jib = _sail(0.44 * length - foot, 0.8 * mast - z0 + 0.1).sized(-1, 1, 1)
            sails.append(jib.at(foot + 0.04, 0, z0 + 0.06))
        parts.append(Part(join(*sails), ("snow", "paper", "accent")[rng.integers(3)]))
        spar = tube([(0, 0, z0), (-0.48 * length - foot, 0, z0)], 0.025, 8).turned("z", boom)
        parts.append(Part(spar.at(x=foot), "wood"))
    elif kind == "tug":
        cabin = box(0.42 * length * 0.8, beam * 0.6, 0.36 * p.height, 0.9).at(-0.08 * length, 0, depth * 0.6)
        panes = box(0.42 * length * 0.83, beam * 0.44, 0.12).at(-0.08 * length, 0, depth * 0.6 + 0.18 * p.height)
        funnel = cylinder(0.09, 0.32 * p.height, 0.085).at(-0.16 * length, 0, depth * 0.6 + 0.33 * p.height)
        band = cylinder(0.1, 0.08).at(-0.16 * length, 0, depth * 0.6 + 0.54 * p.height)
        parts += [Part(cabin, "snow"), Part(panes, "glass"), Part(funnel, "accent"), Part(band, "coal")]
    else:
        benches = [box(0.12, beam * 0.75, 0.04).at(s * length, 0, depth * 0.78) for s in (-0.26, 0.06)]
        oar = join(tube([(0, 0, 0.45), (0, 0.62, 0.12)], 0.03, 8), ball(0.08, 0.15, 0.03, 10).at(0, 0.68, 0.08))
        oar = oar.sized(1, 1, p.height)
        parts += [Part(join(*benches, oar, oar.sized(1, -1, 1)), "wood")]
    return parts


def teapot(p: Proportions, rng: np.random.Generator) -> list[Part]:
    radius, height = 0.48 * p.width, rng.uniform(0.62, 0.75) * p.height
    z = np.linspace(0, 1, 15)
    belly = radius * (0.5 + 0.5 * np.sin(np.pi * (z ** rng.uniform(0.75, 1.05))) ** 0.8)
    body = lathe([(0, 0), *np.stack([belly, z * height], -1), (0, height)], 32)
    rim = [(radius * 0.52, height - 0.02), (radius * 0.5, height + 0.05)]
    lid = lathe([*rim, (radius * 0.2, height + 0.11), (0, height + 0.12)], 24)
    knob = ball(0.085, segments=16).at(z=height + 0.17)
    s = np.linspace(0, 1, 9)
    spout_path = np.stack([0 * s, radius * 0.75 + 0.46 * s, height * (0.32 + 0.68 * s**1.5)], -1)
    spout = tube(spout_path, 0.13 - 0.075 * s, 14)
    if rng.random() < 0.7:
        loop = arc((-radius * 0.85, height * 0.52), (0.42, height * 0.34), TAU / 4, 3 * TAU / 4, 13)
    else:  # a handle over the top
        loop = arc((0, height * 0.8), (radius * 0.85, 0.55), 0.0, TAU / 2, 15)
    handle = tube(np.stack([np.zeros(len(loop)), loop[:, 0], loop[:, 1]], -1), 0.05)
    trim = "accent" if rng.random() < 0.4 else "main"
    return [
        Part(join(body, lid), along="around"),
        Part(spout, "main", "around"),
        Part(handle, trim, "around"),
        Part(knob, "accent"),
    ]


def sofa(p: Proportions, rng: np.random.Generator) -> list[Part]:
    width, depth, back = 1.35 * p.width, 0.62, rng.uniform(0.55, 0.68) * p.height
    seat_top = 0.36
    arm, arm_high = rng.uniform(0.14, 0.2), rng.uniform(0.46, 0.54)
    base = rounded_box(depth, width, 0.28, 0.05).at(z=0.08)
    rest = rounded_box(0.2, width, back, 0.08).at(x=-depth / 2 + 0.06, z=0.1)
    if rng.random() < 0.5:
        side = rounded_box(depth, arm, arm_high, 0.06).at(z=0.08)
    else:  # rolled arms
        roll = cylinder(arm * 0.62, depth).turned("y", TAU / 4).at(x=-depth / 2)
        side = join(roll.at(z=arm_high), box(depth, arm * 0.8, arm_high).at(z=0.06))
    sides = side.on_both_sides(y=width / 2)
    seats = int(rng.integers(2, 4))
    each = (width - arm) / seats
    cushion = rounded_box(depth * 0.78, each * 0.96, 0.14, 0.06).at(0.1, 0, seat_top - 0.03)
    cushions = join(*(cushion.at(y=(i - (seats - 1) / 2) * each) for i in range(seats)))
    feet = cylinder(0.05, 0.1, segments=10).at_corners(depth * 0.4, width * 0.45)
    parts = [Part(join(base, rest, sides), along="y"), Part(feet, "wood")]
    if rng.random() < 0.5:
        pillow = rounded_box(0.12, 0.32, 0.32, 0.06).turned("y", -0.3)
        pillow = pillow.at(-0.02, rng.choice([-1, 1]) * width * 0.3, seat_top + 0.1)
        return [*parts, Part(cushions, along="y"), Part(pillow, "accent")]
    return [*parts, Part(cushions, "accent")]


def airplane(p: Proportions, rng: np.random.Generator) -> list[Part]:
    length, radius, span = 1.5 * p.length, 0.17, rng.uniform(1.3, 1.6) * p.width
    s = np.linspace(0, 1, 21)
    thick = radius * np.clip(np.minimum(np.sqrt(np.clip(1 - ((s - 0.82) / 0.18) ** 2, 0, 1)), 1), 0, 1)
    thick = np.where(s < 0.82, radius * np.clip(0.22 + 0.78 * (s / 0.4) ** 0.8, 0, 1), thick)
    body = lathe([(0, 0), *np.stack([thick, s * length], -1)[:-1], (0, length)], 20)
    body = body.turned("y", TAU / 4).at(x=-length / 2)
    sweep = rng.uniform(0.05, 0.45)

    def wing(reach: float, chord: float, tip: float, back: float):
        front = chord / 2 - back
        outline = np.array([(chord / 2, -0.01), (front, reach), (front - tip, reach), (-chord / 2, -0.01)])
        half = prism(outline, 0.05)
        return join(half, half.sized(1, -1, 1))

    low = rng.choice([-0.08, 0.1])
    wings = wing(span / 2, 0.4, 0.18, sweep).at(0.1, 0, low)
    tail = wing(0.32, 0.22, 0.12, 0.12).at(-length / 2 + 0.14, 0, 0.02)
    fin = prism(np.array([(-0.13, 0), (0.16, 0), (-0.06, 0.36), (-0.18, 0.36)]), 0.05)
    fin = fin.sideways().at(-length / 2 + 0.13, 0, 0.05)
    window = ball(0.04, segments=10)
    windows = join(*(window.on_both_sides(x * length, radius * 0.95, 0.05) for x in np.linspace(-0.2, 0.2, 5)))
    screen = ball(0.12, 0.12, 0.09, 16).at(length * 0.38, 0, 0.09)
    parts = [
        Part(body, along="x"),
        Part(join(wings, tail, fin), ("accent", "metal", "main")[rng.integers(3)], "x"),
        Part(join(windows, screen), "glass"),
    ]
    if rng.random() < 0.4:
        blades = join(box(0.03, 0.09, 0.8).at(z=-0.4), box(0.03, 0.8, 0.09).at(z=-0.045)).at(x=length / 2 + 0.03)
        parts += [Part(blades, "coal"), Part(ball(0.07, segments=12).at(x=length / 2 + 0.02), "metal")]
    else:
        engine = cylinder(0.085, 0.3, 0.075, 16).turned("y", TAU / 4)
        parts.append(Part(engine.on_both_sides(0.08, span * 0.26, low - 0.09), "metal"))
    return parts
