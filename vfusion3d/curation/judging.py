"""A person judges videos in a notebook: one film strip at a time, good or bad, by button or by key (section 3.2).

`Judging` is where one is in a list of videos; `judging_widget` shows it. Each judgement is on disk before the next
video appears, so one may stop at any time, and goes on at the first video that nobody has judged.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.utils import make_grid

from vfusion3d.curation.judgements import Judgements
from vfusion3d.data.shards import VideoShards

KEYS = {"g": "good", "b": "bad", "s": "skip", "z": "back"}
COLOURS = {"good": "success", "bad": "danger", "skip": "", "back": ""}
COLUMNS = 8  # frames a row of the film strip
GAP = 4  # pixels between frames
SIDE = 120  # pixels a side of a frame


class Judging:
    """Who judges which of the videos, and which is next.

    keys: the videos to judge, in this order. Those that a person has judged already are not shown again, unless one
    goes back; a judgement of the simulated judge is replaced.
    """

    def __init__(self, judgements: Judgements, keys: Sequence[str], judge: str = "person"):
        self.judgements = judgements
        self.keys = list(keys)
        self.judge = judge
        self._place = 0
        self._seen: list[int] = []
        self._forward()

    @property
    def current(self) -> str | None:
        """The key of the video to judge; None when there is none left."""
        return self.keys[self._place] if self._place < len(self.keys) else None

    @property
    def judged(self) -> int:
        """How many of the videos a person has judged."""
        return sum(map(self._is_judged, self.keys))

    def act(self, action: str) -> None:
        """`good` or `bad` is written down; `skip` leaves the video for another day; `back` shows the last one again."""
        if action not in COLOURS:
            raise ValueError(f"one can do {', '.join(COLOURS)} with a video, not {action!r}")
        if action == "back":
            self._place = self._seen.pop() if self._seen else self._place
        elif self.current is not None:
            if action != "skip":
                self.judgements.judge(self.current, action == "good", self.judge)
            self._seen.append(self._place)
            self._place += 1
            self._forward()

    def _forward(self) -> None:
        while self.current is not None and self._is_judged(self.current):
            self._place += 1

    def _is_judged(self, key: str) -> bool:
        made = self.judgements.get(key)
        return made is not None and not made.simulated


def judging_widget(judging: Judging, videos: VideoShards):
    """An ipywidgets box with film strip, caption, progress, buttons, and a field that takes single letters as keys."""
    import ipywidgets

    picture = ipywidgets.Image(format="png")
    text = ipywidgets.Label()
    bar = ipywidgets.IntProgress(max=len(judging.keys), layout={"width": "300px"})
    words = {action: f"{action} ({key})" for key, action in KEYS.items()}
    buttons = [ipywidgets.Button(description=words[action], button_style=style) for action, style in COLOURS.items()]
    typed = ipywidgets.Text(placeholder=f"click here and type {', '.join(KEYS)}", layout={"width": "200px"})
    places = {key: place for place, key in enumerate(videos.keys)}

    def show() -> None:
        key = judging.current
        bar.value = judging.judged
        count = f"{judging.judged} of {len(judging.keys)} judged"
        picture.layout.display = "none" if key is None else "block"
        if key is None:
            text.value = f"{count}: no video is left"
            return
        video = videos[places[key]]
        picture.value = strip_png(video.frames)
        before = judging.judgements.get(key)
        said = f", so far {'good' if before.good else 'bad'} ({before.judge})" if before else ""
        text.value = f"{video.caption} ({count}{said})"

    def act(action: str) -> None:
        try:
            judging.act(action)
        except OSError as error:  # a full disk: nothing is lost, and nothing moves on
            text.value = f"not saved: {error}"
            return
        show()

    def on_typed(change) -> None:
        if change["new"]:
            typed.value = ""
            for letter in change["new"].lower():
                if letter in KEYS:
                    act(KEYS[letter])

    for button, action in zip(buttons, COLOURS, strict=True):
        button.on_click(lambda _, action=action: act(action))
    typed.observe(on_typed, "value")
    show()
    return ipywidgets.VBox([picture, text, ipywidgets.HBox([*buttons, typed]), bar])


def strip_png(frames: UInt8[Tensor, "frames 3 h w"]) -> bytes:
    """All frames of a video in rows of eight, in reading order, as a PNG."""
    pixels = frames.permute(0, 2, 3, 1).numpy()
    larger = np.stack([cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for frame in pixels])
    sheet = make_grid(torch.from_numpy(larger).permute(0, 3, 1, 2), nrow=COLUMNS, padding=GAP, pad_value=200)
    inside = sheet[:, GAP:-GAP, GAP:-GAP].permute(1, 2, 0).numpy()
    return cv2.imencode(".png", cv2.cvtColor(inside, cv2.COLOR_RGB2BGR))[1].tobytes()
