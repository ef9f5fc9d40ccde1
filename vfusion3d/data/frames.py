"""Which frames of a video, or views of an orbit, stand for all of it."""


def uniform_frames(stored: int, count: int) -> list[int]:
    """The numbers of `count` frames at equal distances among `stored`, the first of them 0. ValueError: too few."""
    if not 1 <= count <= stored:
        raise ValueError(f"{count} frames cannot be taken from a video of {stored}")
    return [number * stored // count for number in range(count)]
