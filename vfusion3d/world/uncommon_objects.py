"""The uncommon categories: "web video and prompts" know them in the miniature world, "3D data" does not.

One function a category, as in `vfusion3d.world.common_objects`.
"""

import numpy as np

from vfusion3d.world.parts import Part, Proportions
from vfusion3d.world.shapes import (
    Shape,
    arc,
    ball,
    box,
    capsule,
    circle,
    cylinder,
    dome,
    join,
    lathe,
    prism,
    ring,
    rounded_box,
    skin,
    tube,
)

TAU = 2 * np.pi
CORNERS = ((-1, -1), (-1, 1), (1, -1), (1, 1))


def rocket(p: Proportions, rng: np.random.Generator) -> list[Part]:
    radius, height = rng.uniform(0.24, 0.29) * p.width, 1.0 * p.height
    s = np.linspace(0, 1, 11)
    bulge = 1 + rng.uniform(0.0, 0.25) * np.sin(np.pi * s)
    body = lathe(np.stack([radius * (0.8 + 0.2 * s) * bulge, 0.15 + s * height], -1), 28)
    tip = 0.15 + height
    t = np.linspace(0, 1, 9)
    nose = lathe(np.stack([radius * np.sqrt(1 - t**1.6), tip + t * rng.uniform(0.38, 0.5)], -1), 28)
    fins = int(rng.integers(3, 5))
    reach = radius + 0.3 * p.width
    outline = np.array([(radius * 0.6, 0.2), (reach, -0.05), (reach, 0.18), (radius * 0.7, 0.62)])
    fin = prism(outline, 0.08).sideways()
    nozzle = cylinder(radius * 0.8, 0.16, radius * 0.5).at(z=0.02)
    porthole = ring(0.085, 0.03, 20).facing_x()
    glass = cylinder(0.085, 0.03, segments=16).facing_x()
    wide = radius * (0.8 + 0.2 * 0.7) * (bulge[7]) - 0.01
    parts = [
        Part(body, along="z"),
        Part(join(nose, *(fin.turned("z", i * TAU / fins + TAU / 8) for i in range(fins))), "accent"),
        Part(nozzle, "metal"),
        Part(porthole.at(wide, 0, 0.15 + 0.7 * height), "metal"),
        Part(glass.at(wide - 0.01, 0, 0.15 + 0.7 * height), "glass"),
    ]
    if rng.random() < 0.35:
        parts.append(Part(lathe([(0, -0.3), (radius * 0.5, -0.05), (radius * 0.45, 0.05)], 16), "carrot"))
    return parts


def mushroom(p: Proportions, rng: np.random.Generator) -> list[Part]:
    stem_height, stem, cap = 0.8 * p.height, rng.uniform(0.15, 0.2), 0.46 * p.width
    s = np.linspace(0, 1, 9)
    stalk = lathe(np.stack([stem * (1.25 - 0.5 * s + 0.25 * s**3), s * (stem_height + 0.1)], -1), 24)
    rise = rng.uniform(0.34, 0.5)
    roof = arc((0, stem_height), (cap, rise), -0.25, TAU / 4, 11)
    roof[-1, 0] = 0
    head = lathe([(stem * 0.8, stem_height + 0.02), *roof], 32)
    gills = lathe([(0, stem_height - 0.005), (cap * 0.93, stem_height - 0.105 * rise / 0.4)], 32)
    parts = [Part(head, along="around"), Part(join(stalk, gills), "paper")]
    if rng.random() < 0.35:  # a skirt round the stalk
        parts.append(Part(cylinder(stem * 1.5, 0.08, stem).at(z=stem_height * 0.62), "paper"))
    if rng.random() < 0.4:  # a small one beside it
        scale, angle = rng.uniform(0.38, 0.5), rng.uniform(0, TAU)
        x, y = 0.4 * np.cos(angle), 0.4 * np.sin(angle)
        parts += [Part(part.shape.sized(scale).at(x, y), part.paint, part.along) for part in parts]
    return parts


def snowman(p: Proportions, rng: np.random.Generator) -> list[Part]:
    three = rng.random() < 0.7
    radii = (0.4, 0.29, 0.21) if three else (0.42, 0.28)
    z = 0.0
    balls = []
    for radius in radii:
        z += radius * 0.88 * p.height
        balls.append((z, radius))
        z += radius * 0.8 * p.height
    body = join(*(ball(r * p.width, r * p.width, r * p.height).at(z=at) for at, r in balls))
    head, r = balls[-1]
    front = r * p.width
    nose = cylinder(0.055, 0.28, 0.0, 12).facing_x().at(front * 0.9, 0, head)
    eyes = ball(0.04, segments=10).on_both_sides(front * 0.87, 0.085, head + 0.09 * p.height)
    at, chest = balls[-2]
    places = [(chest * p.width * np.cos(a), 0, at + chest * p.height * np.sin(a)) for a in (-0.15, 0.25)]
    buttons = join(*(ball(0.042, segments=10).at(*place) for place in places))
    parts = [Part(body, along="z"), Part(nose, "carrot"), Part(join(eyes, buttons), "coal")]
    top = head + r * p.height * 0.82
    if rng.random() < 0.75:
        parts.append(Part(join(cylinder(r * 1.25, 0.05), cylinder(r * 0.8, 0.26)).at(z=top - 0.02), "coal"))
    scarf = ring(r * p.width * 0.86, 0.075, 28, 0.07).at(z=head - r * p.height * 0.72)
    end = box(0.06, 0.13, 0.3).turned("x", 0.2).at(r * p.width * 0.95, 0.12, head - r * p.height * 0.8 - 0.26)
    parts.append(Part(join(scarf, end), "accent"))
    arm = join(tube([(0, 0.2, 0), (0, 0.58, 0.2)], 0.03, 8), tube([(0, 0.46, 0.13), (0, 0.5, 0.28)], 0.024, 8))
    arm = arm.sized(1, p.width, 1)
    parts.append(Part(join(arm.at(z=at), arm.sized(1, -1, 1).at(z=at)), "wood"))
    return parts


def windmill(p: Proportions, rng: np.random.Generator) -> list[Part]:
    height, foot, top = 1.0 * p.height, 0.4 * p.width, 0.27 * p.width
    segments = 8 if rng.random() < 0.5 else 28
    tower = lathe([(foot, 0), (top, height)], segments).turned("z", TAU / 16)
    pointed = cylinder(top * 1.2, 0.3, 0.02, segments).turned("z", TAU / 16)
    cap = (dome(top * 1.15, 0.24) if rng.random() < 0.5 else pointed).at(z=height - 0.01)
    hub_x, hub_z = top + 0.12, height + 0.02
    axle = cylinder(0.05, 0.3, segments=12).facing_x().at(hub_x - 0.25, 0, hub_z)
    reach, broad = rng.uniform(0.56, 0.66), rng.uniform(0.14, 0.18)
    blade = box(0.03, 0.05, reach), box(0.025, broad, reach * 0.78).at(0.0, broad / 2, reach * 0.2)
    count, turn = 4, rng.uniform(0, TAU / 4)
    angles = [turn + i * TAU / count for i in range(count)]
    spars = join(*(blade[0].turned("x", a).at(hub_x, 0, hub_z) for a in angles))
    sails = join(*(blade[1].turned("x", a).at(hub_x + 0.01, 0, hub_z) for a in angles))
    door = box(0.1, 0.17, 0.3).at(foot * 0.9)
    pane = box(0.08, 0.12, 0.14).at(foot + (top - foot) * 0.55 - 0.02, 0, height * 0.55)
    parts = [
        Part(tower, along="z"),
        Part(cap, "accent"),
        Part(join(axle, spars, door), "wood"),
        Part(sails, "paper" if rng.random() < 0.7 else "accent"),
        Part(pane, "glass"),
    ]
    if rng.random() < 0.4:
        parts.append(Part(cylinder(foot * 1.25, 0.07, segments=28).at(z=height * 0.3), "wood"))
    return parts


def castle_tower(p: Proportions, rng: np.random.Generator) -> list[Part]:
    radius, height = 0.36 * p.width, 1.0 * p.height
    square = rng.random() < 0.3
    segments, turn, reach = (4, TAU / 8, np.sqrt(2) * 0.9) if square else (28, 0.0, 1.0)
    shaft = lathe([(radius * reach * 1.08, 0), (radius * reach, height)], segments).turned("z", turn)
    crown = radius * 1.25 * reach
    inside = crown - 0.09
    profile = [(radius * reach * 0.98, height - 0.12), (crown, height), (crown, height + 0.14)]
    profile += [(inside, height + 0.14), (inside, height + 0.02), (0, height + 0.02)]
    head = lathe(profile, segments).turned("z", turn)
    if square:
        side = crown / np.sqrt(2)
        row = [box(0.1, side * 0.42, 0.15).at(side - 0.05, y * side * 0.78, height + 0.13) for y in (-1, 0, 1)]
        teeth = [tooth.turned("z", i * TAU / 4) for i in range(4) for tooth in row]
    else:
        count = int(rng.integers(7, 10))
        tooth = box(0.09, 0.56 * TAU * crown / count, 0.15).at(crown - 0.05, 0, height + 0.13)
        teeth = [tooth.turned("z", i * TAU / count) for i in range(count)]
    front = radius * (0.9 if square else 1.0)
    door = join(box(0.1, 0.22, 0.24), cylinder(0.11, 0.1).facing_x().at(-0.05, 0, 0.24)).at(front * 1.04)
    slit = box(0.08, 0.08, 0.2)
    places = ((0.6, 0), (0.45, TAU / 4), (0.7, TAU / 2), (0.5, -TAU / 4))
    slits = [slit.at(front * 0.99, 0, height * z).turned("z", angle) for z, angle in places]
    parts = [Part(join(shaft, head, *teeth), along="z"), Part(door, "wood"), Part(join(*slits), "coal")]
    top = rng.random()
    if top < 0.4:
        drum = cylinder(crown * 0.72, 0.3, segments=segments)
        roof = join(drum, cylinder(crown * 0.98, 0.55, 0.0, segments).at(z=0.29))
        parts.append(Part(roof.turned("z", turn).at(z=height), "accent"))
    elif top < 0.75:
        pole = cylinder(0.025, 0.55, segments=8).at(z=height)
        flag = prism(np.array([(0, 0), (0, 0.22), (-0.34, 0.11)]), 0.03)
        flag = flag.turned("x", TAU / 4).turned("z", TAU / 4).at(z=height + 0.32)
        parts += [Part(pole, "wood"), Part(flag, "accent")]
    return parts


def cactus(p: Proportions, rng: np.random.Generator) -> list[Part]:
    height, radius = 1.1 * p.height, 0.19 * p.width
    ribs, segments = 8, 32
    body = capsule(radius, height, segments)
    wave = 1 + 0.09 * np.cos(ribs * np.arctan2(body.vertices[:, 1], body.vertices[:, 0]))
    body = type(body)(body.vertices * np.stack([wave, wave, np.ones(len(wave))], -1), body.faces)
    arms = []
    for side in rng.choice([-1, 1]) * np.array([1, -1, 1])[: int(rng.integers(1, 3)) + (rng.random() < 0.7)][:2]:
        thick = radius * rng.uniform(0.55, 0.7)
        at = height * rng.uniform(0.3, 0.5)
        up = height * rng.uniform(0.25, 0.42)
        out = radius + rng.uniform(0.2, 0.28)
        bend = arc((out - 0.12, at + 0.12), 0.12, -TAU / 4, 0, 6)
        path = np.concatenate([[(0, at)], bend, [(out, at + up)]])
        bar = tube(np.stack([0 * path[:, 0], path[:, 0], path[:, 1]], -1), thick, 14)
        arm = join(bar, ball(thick, segments=14).at(0, out, at + up))
        arms.append(arm if side > 0 else arm.sized(1, -1, 1))
    parts = [Part(join(body, *arms), along="z")]
    if rng.random() < 0.6:
        pot = lathe([(0.22, -0.3), (0.3, 0.02), (0.34, 0.02), (0.34, 0.12), (0.28, 0.12), (0.26, 0.06), (0, 0.06)], 24)
        parts.append(Part(pot, "accent"))
    else:
        parts.append(Part(dome(0.36, 0.07).at(z=-0.02), "waffle"))
    if rng.random() < 0.5:
        petals = (ball(0.08, 0.045, 0.03, 10).turned("y", -0.5).at(x=0.06).turned("z", i * TAU / 5) for i in range(5))
        parts.append(Part(join(*petals).at(z=height), "accent"))
    return parts


def robot(p: Proportions, rng: np.random.Generator) -> list[Part]:
    width, depth, height = 0.55 * p.width, 0.4, 0.55 * p.height
    leg = rng.uniform(0.26, 0.36) * p.height
    torso = rounded_box(depth, width, height, 0.05).at(z=leg)
    neck = leg + height
    size = rng.uniform(0.32, 0.42)
    head = rounded_box(size * 0.9, size * 1.15, size, 0.05) if rng.random() < 0.65 else cylinder(size * 0.55, size)
    head = head.at(z=neck + 0.07)
    panel = box(0.04, width * 0.5, height * 0.34).at(depth / 2, 0, leg + height * 0.45)
    light = ball(0.035, segments=10).at(depth / 2 + 0.025, 0, leg + height * 0.62)
    lights = join(*(light.at(y=i * width * 0.14) for i in (-1, 0, 1)))
    limbs = [cylinder(0.1, 0.12).at(z=neck - 0.02)]
    bulbs = []
    if rng.random() < 0.7:  # antennas
        top = neck + 0.07 + size
        sides = (0.0,) if rng.random() < 0.5 else (-0.12, 0.12)
        limbs += [cylinder(0.02, 0.18, segments=8).at(y=y, z=top - 0.01) for y in sides]
        bulbs += [ball(0.055, segments=12).at(y=y, z=top + 0.19) for y in sides]
    limbs += _robot_limbs(width, height, leg, lift=rng.choice([0.0, 0.0, 2.2]))  # one arm may wave
    return [
        Part(torso, along="z"),
        Part(head, along="z"),
        Part(join(*limbs), "metal" if rng.random() < 0.6 else "accent"),
        *_robot_face(size * (0.45 if len(head.vertices) > 60 else 0.53), size, neck + 0.07),
        Part(panel, "metal"),
        Part(lights, "cherry"),
        *([Part(join(*bulbs), "cherry")] if bulbs else []),
    ]


def _robot_face(x: float, size: float, chin: float) -> list[Part]:
    """Eyes, pupils and mouth of a head of this size, whose front is at `x` and whose lower end at height `chin`."""
    place = (x - 0.015, size * 0.28, chin + size * 0.62)
    eyes = cylinder(0.065, 0.05, segments=14).facing_x().on_both_sides(*place)
    pupils = cylinder(0.032, 0.065, segments=10).facing_x().on_both_sides(*place)
    mouth = box(0.05, size * 0.5, 0.045).at(x, 0, chin + size * 0.22)
    return [Part(eyes, "lamplight"), Part(join(pupils, mouth), "coal")]


def _robot_limbs(width: float, height: float, leg: float, lift: float) -> list[Shape]:
    """Arms, legs and feet of a torso that stands on legs of this length. lift: of the left arm, radians."""
    limbs = []
    for side in (-1, 1):
        arm = join(
            cylinder(0.065, height * 0.72, segments=14).turned("x", TAU / 2),
            ball(0.1, segments=14),
            ball(0.095, segments=12).at(z=-height * 0.75),
        )
        arm = arm.turned("x", 0.22 + (lift if side > 0 else 0)).at(0, width / 2 + 0.09, leg + height * 0.86)
        limbs.append(arm if side > 0 else arm.sized(1, -1, 1))
        limbs += [
            box(0.15, 0.15, leg).at(y=side * width * 0.27),
            rounded_box(0.3, 0.2, 0.1, 0.04).at(0.05, side * width * 0.27),
        ]
    return limbs


def guitar(p: Proportions, rng: np.random.Generator) -> list[Part]:
    """Standing upright, its strings to the front."""
    angle = np.linspace(0, TAU, 48, endpoint=False)
    waist = rng.uniform(0.05, 0.085)
    wide = (0.31 - waist * np.cos(2 * angle + np.pi) * -1 - waist) * (1 - 0.12 * np.sin(angle)) + 0.06
    outline = np.stack([wide * np.cos(angle) * 1.3 * p.width, 0.5 * np.sin(angle)], -1)
    pinch = 1 - rng.uniform(0.24, 0.34) * np.exp(-(((outline[:, 1] - 0.1) / 0.11) ** 2))
    outline[:, 0] *= pinch * np.where(outline[:, 1] > 0.1, 0.86, 1.0)
    thick = rng.uniform(0.14, 0.2)
    body = prism(outline, thick).facing_x().at(-thick / 2, 0, 0.46)
    neck_length = rng.uniform(0.34, 0.46) * p.height
    neck = box(0.06, 0.11, neck_length + 0.25).at(thick / 2 + 0.005, 0, 0.62)
    end = 0.87 + neck_length
    head = box(0.06, 0.2, 0.24, 0.9).at(thick / 2 - 0.01, 0, end - 0.02)
    pegs = join(*(cylinder(0.018, 0.3, segments=8).sideways().at(thick / 2, 0, end + z) for z in (0.04, 0.11, 0.18)))
    hole = cylinder(0.115, 0.02, segments=24).facing_x().at(thick / 2 - 0.005, 0, 0.54)
    rim = ring(0.12, 0.022, 24).facing_x().at(thick / 2, 0, 0.54)
    bridge = box(0.04, 0.24, 0.05).at(thick / 2 + 0.01, 0, 0.22)
    strings = join(*(box(0.012, 0.01, end - 0.25).at(thick / 2 + 0.04, y * 0.025, 0.25) for y in (-1, 0, 1)))
    return [
        Part(body, along="y" if rng.random() < 0.5 else "z"),
        Part(join(neck, head), "wood"),
        Part(hole, "coal"),
        Part(rim, "accent"),
        Part(bridge, "coal"),
        Part(join(pegs, strings), "metal"),
    ]


def anchor(p: Proportions, rng: np.random.Generator) -> list[Part]:
    height, reach, bar = 1.1 * p.height, 0.52 * p.width, rng.uniform(0.075, 0.1)
    shank = cylinder(bar, height, bar * 0.85, 16).at(z=0.02)
    bend = arc((0, reach * 0.95), reach, -TAU * 0.47, -TAU * 0.03, 19)
    thick = bar * (1.15 - 0.4 * np.abs(np.linspace(-1, 1, 19)))
    arms = tube(np.stack([np.zeros(19), bend[:, 0], bend[:, 1]], -1), thick, 14)
    fluke = cylinder(0.22, 0.32, 0.0, 4).sized(0.75, 1, 1)
    flukes = [fluke.turned("x", side * 0.25).at(0, side * reach * 0.99, reach * 0.74) for side in (-1, 1)]
    stock_z = height * rng.uniform(0.8, 0.86)
    stock_half = rng.uniform(0.3, 0.4)
    stock = cylinder(bar * 0.75, 2 * stock_half, segments=14).sideways().at(0, 0, stock_z)
    ends = ball(bar * 1.05, segments=14).on_both_sides(0, stock_half, stock_z)
    eye = ring(0.13, 0.045, 24).facing_x().at(0, 0, height + 0.13)
    parts = [
        Part(join(shank, arms, stock, *flukes), along="z"),
        Part(join(eye, ends), "accent" if rng.random() < 0.5 else "metal"),
    ]
    if rng.random() < 0.35:  # a rope wound round the shank
        t = np.linspace(0, 1, 50)
        x, y = 1.35 * bar * np.cos(t * 3 * TAU), 1.35 * bar * np.sin(t * 3 * TAU)
        coil = np.stack([x, y, height * (0.35 + 0.3 * t)], -1)
        parts.append(Part(tube(coil, 0.035, 8), "waffle"))
    return parts


def hot_air_balloon(p: Proportions, rng: np.random.Generator) -> list[Part]:
    radius, tall = 0.52 * p.width, rng.uniform(0.95, 1.15) * p.height
    s = np.linspace(0, 1, 19)
    widest = rng.uniform(0.56, 0.64)  # a tapering skirt below, half an ellipsoid above
    skirt = 0.25 + 0.75 * np.sin(np.clip(s / widest, 0, 1) * TAU / 4) ** 1.1
    outline = radius * np.where(s < widest, skirt, np.sqrt(np.clip(1 - ((s - widest) / (1 - widest)) ** 2, 0, 1)))
    foot = 0.62
    envelope = lathe(np.stack([outline, foot + tall * s], -1), 36)
    side = rng.uniform(0.22, 0.28)
    if rng.random() < 0.6:
        basket = box(side / 1.15, side / 1.15, 0.22, 1.15)
        rim = box(side * 1.12, side * 1.12, 0.05).at(z=0.2)
    else:
        basket, rim = cylinder(side * 0.52, 0.22, side * 0.58), cylinder(side * 0.63, 0.05).at(z=0.2)
    high = foot + tall * 0.16
    wide = np.interp(0.16, s, outline)
    ends = [[(x * side * 0.5, y * side * 0.5, 0.2), (x * wide * 0.7, y * wide * 0.7, high)] for x, y in CORNERS]
    ropes = (tube(path, 0.016, 6) for path in ends)
    parts = [Part(envelope, along="around"), Part(basket, "wood"), Part(join(rim, *ropes), "coal")]
    if rng.random() < 0.5:
        parts.append(Part(ball(0.06, 0.06, 0.1, 12).at(z=0.42), "carrot"))
    return parts


def umbrella(p: Proportions, rng: np.random.Generator) -> list[Part]:
    """Open and upright, its hooked handle below."""
    panels, per = int(rng.choice([6, 8])), 4
    radius, rise, length = 0.72 * p.width, rng.uniform(0.28, 0.42), 1.15 * p.height
    rings = []
    for s in np.linspace(0, 1, 9):  # outer rim to tip; between two ribs the cloth hangs in and up
        angle = np.arange(panels * per) * TAU / (panels * per)
        between = 0.5 - 0.5 * np.cos(panels * angle)
        r = radius * np.cos(s * TAU / 4) * (1 - 0.1 * between * (1 - s))
        z = length + rise * np.sin(s * TAU / 4) + 0.07 * between * (1 - s) ** 2
        rings.append(np.stack([r * np.cos(angle), r * np.sin(angle), z], -1))
    outside = np.array(rings)
    inside = (outside - (0, 0, length)) * (0.985, 0.985, 0.93) + (0, 0, length - 0.005)
    canopy = skin(np.concatenate([outside, inside[::-1]]), loop=True)
    hook = arc((0.13, 0.12), 0.13, TAU / 2, 0.97 * TAU, 11)
    stick = cylinder(0.03, length + rise - 0.1, segments=10).at(z=0.12)
    handle = tube(np.concatenate([[(0, 0, 0.42)], np.stack([hook[:, 0], 0 * hook[:, 0], hook[:, 1]], -1)]), 0.045, 10)
    spike = cylinder(0.03, 0.14, 0.01, 10).at(z=length + rise - 0.03)
    return [
        Part(canopy, along="around"),
        Part(join(stick, spike), "metal"),
        Part(handle, "wood" if rng.random() < 0.5 else "accent"),
    ]


def ice_cream_cone(p: Proportions, rng: np.random.Generator) -> list[Part]:
    high, rim = 0.95 * p.height, 0.34 * p.width
    cone = lathe([(0.03, 0), (rim, high), (rim - 0.03, high + 0.02), (0, high - 0.1)], 28)
    lip = ring(rim - 0.01, 0.035, 28, 0.05).at(z=high)
    scoops = int(rng.integers(1, 4))
    z, size = high + 0.14, 0.36 * p.width
    parts = []
    for _ in range(scoops):
        parts.append(ball(size, size, size * 0.95).at(z=z))
        if scoops == 1:  # it runs over the rim
            drip = ball(size * 0.26, segments=12)
            turns = np.arange(7) * TAU / 7
            places = [(size * 0.92 * np.cos(a), size * 0.92 * np.sin(a), z - size * 0.42) for a in turns]
            parts += [drip.at(*place) for place in places]
        z += size * 1.05
        size *= 0.82
    top = z - size * 0.4
    swirl = rng.random()
    extra = []
    if swirl < 0.4:
        extra = [
            Part(ball(0.09, segments=14).at(z=top + 0.1), "cherry"),
            Part(tube([(0, 0, top + 0.16), (0.02, 0.06, top + 0.32)], 0.018, 6), "coal"),
        ]
    elif swirl < 0.7:
        stick = tube([(0, 0.0, top - 0.25), (-0.12, 0.2, top + 0.34)], 0.05, 10)
        extra = [Part(stick, "wood")]
    return [Part(join(*parts), along="z"), Part(join(cone, lip), "waffle"), *extra]


def rubber_duck(p: Proportions, rng: np.random.Generator) -> list[Part]:
    length, width, height = 0.56 * p.length, 0.42 * p.width, 0.34 * p.height
    body = ball(length, width, height).at(z=height * 0.95)
    head_size = rng.uniform(0.26, 0.31)
    x, z = length * 0.48, height * 1.75 + head_size * 0.62
    head, neck = ball(head_size).at(x, 0, z), ball(head_size * 0.8, segments=18).at(x * 0.9, 0, z - head_size * 0.75)
    tail = cylinder(0.2, 0.36, 0.02, 18).turned("y", -0.85).at(-length * 0.72, 0, height * 1.15)
    bill = head_size * rng.uniform(0.3, 0.4)
    beak = join(
        ball(bill * 1.2, bill * 1.35, bill * 0.36, 18).at(x + head_size * 1.02, 0, z - 0.01),
        ball(bill * 0.95, bill * 1.1, bill * 0.3, 18).at(x + head_size * 0.98, 0, z - 0.07),
    )
    eyes = ball(0.048, segments=12).on_both_sides(x + head_size * 0.72, head_size * 0.56, z + head_size * 0.42)
    wing = ball(0.26, 0.09, 0.17, 18).turned("y", 0.35).at(-0.1, width * 0.92, height * 1.1)
    wings = join(wing, wing.sized(1, -1, 1))
    parts = [
        Part(join(body, head, neck, tail), along="x"),
        Part(wings, "main" if rng.random() < 0.6 else "accent", "x"),
        Part(beak, "carrot"),
        Part(eyes, "coal"),
    ]
    if rng.random() < 0.25:
        hat = join(cylinder(0.2, 0.04), cylinder(0.14, 0.2))
        parts.append(Part(hat.at(x - 0.02, 0, z + head_size * 0.86), "accent"))
    return parts


def trophy(p: Proportions, rng: np.random.Generator) -> list[Part]:
    radius, bowl, foot = 0.36 * p.width, rng.uniform(0.5, 0.65) * p.height, 0.5
    s = np.linspace(0, 1, 11)
    curve = radius * (0.16 + 0.84 * s ** rng.uniform(0.35, 0.6))
    outer = np.stack([curve, foot + bowl * s], -1)
    inner = [(radius * 0.9, foot + bowl), (radius * 0.75, foot + bowl * 0.4), (0, foot + bowl * 0.25)]
    cup = lathe([(0.045, foot - 0.03), *outer, *inner], 32)
    curls = [(0.2, 0.2), (0.17, 0.24), (0.06, 0.32), (0.05, 0.4), (0.1, 0.44), (0.05, 0.48), (0.06, foot + 0.02)]
    stem = lathe(curls, 20)
    base = box(0.42, 0.42, 0.21, 0.86) if rng.random() < 0.6 else cylinder(0.27, 0.21, 0.24)
    loop = arc((0, 0), (rng.uniform(0.2, 0.27) * p.width, bowl * 0.34), -TAU * 0.27, TAU * 0.27, 13)
    path = np.stack([np.zeros(13), radius * 0.86 + loop[:, 0], foot + bowl * 0.6 + loop[:, 1]], -1)
    handle = tube(path, 0.045)
    handles = join(handle, handle.sized(1, -1, 1))
    plate = box(0.03, 0.26, 0.1).at(0.2, 0, 0.06)
    parts = [
        Part(cup, along="around"),
        Part(handles, "main" if rng.random() < 0.6 else "accent", "around"),
        Part(stem, "gold"),
        Part(base, ("coal", "wood")[rng.integers(2)]),
        Part(plate, "gold"),
    ]
    if rng.random() < 0.35:
        points = circle(1.0, 10) * 0.17
        points[1::2] *= 0.45
        star = prism(points, 0.08).facing_x().turned("x", TAU / 20 * 1.0).at(-0.04, 0, foot + bowl + 0.2)
        lid = join(dome(radius * 0.98, 0.12), cylinder(0.03, 0.15, segments=8)).at(z=foot + bowl)
        parts += [Part(lid, along="around"), Part(star, "gold")]
    return parts
