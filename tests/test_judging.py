"""Judgements of videos: the file that holds them, and the widget in which a person makes them."""

import errno

import cv2
import numpy as np
import pandas as pd
import pytest

from vfusion3d.curation.judgements import Judgement, JudgementError, Judgements
from vfusion3d.curation.judging import GAP, SIDE, Judging, judging_widget, strip_png
from vfusion3d.data.shards import ShardWriter, VideoShards, encode_video, shard_path, write_index

KEYS = [f"{number:08d}" for number in range(6)]


def shards(folder, brightness=0):
    with ShardWriter(shard_path(folder, 0)) as writer:
        for number, key in enumerate(KEYS):
            frames = np.full((16, 32, 32, 3), brightness + 20 * number, np.uint8)
            writer.write(key, encode_video(frames, f"caption {number}", {"index": number, "frames": 16}))
    write_index(folder)
    return VideoShards(folder)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return shards(tmp_path_factory.mktemp("videos"))


@pytest.fixture
def judgements(videos, tmp_path):
    return Judgements(tmp_path / "judgements.csv", videos)


# The file


def test_every_judgement_is_on_disk_at_once_and_read_back(judgements, videos):
    judgements.judge(KEYS[4], True, "ann")
    judgements.judge(KEYS[1], False, "simulated")
    again = Judgements(judgements.path, videos)
    assert again.get(KEYS[4]) == Judgement(KEYS[4], True, "ann")
    assert again.get(KEYS[0]) is None
    assert KEYS[1] in again
    places, good = again.arrays()
    assert places.tolist() == [1, 4]
    assert good.tolist() == [False, True]
    lines = judgements.path.read_text().splitlines()
    assert lines[0] == "key,good,judge,videos"
    assert lines[1] == f"{KEYS[4]},yes,ann,{videos.fingerprint}"


def test_a_file_of_an_earlier_version_goes_on_under_the_new_name(videos, tmp_path):
    old = tmp_path / "annotations.csv"
    old.write_text(f"key,good,annotator,videos\n{KEYS[3]},yes,ann,{videos.fingerprint}\n")
    assert Judgements(tmp_path / "mine.csv", videos).get(KEYS[3]) is None  # only where a run keeps them
    made = Judgements(tmp_path / "judgements.csv", videos)
    assert made.get(KEYS[3]) == Judgement(KEYS[3], True, "ann")
    made.judge(KEYS[0], False, "bob")
    assert made.path.read_text().splitlines()[0] == "key,good,judge,videos"
    assert len(Judgements(made.path, videos)) == 2
    assert not old.exists()


def test_a_second_judgement_replaces_the_first_and_the_digest_tells(judgements, videos):
    judgements.judge(KEYS[0], True, "ann")
    first = judgements.digest
    judgements.judge(KEYS[0], False, "ann")
    assert len(Judgements(judgements.path, videos)) == 1
    assert not judgements.get(KEYS[0]).good
    assert judgements.digest != first
    judgements.judge(KEYS[0], True, "somebody else")
    assert judgements.digest == first  # who said it makes no difference to what is learned


def test_a_full_disk_loses_nothing_and_invents_nothing(judgements, videos, monkeypatch):
    judgements.judge(KEYS[0], True, "ann")
    before = judgements.path.read_bytes()

    def full(self, *rest, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_csv", full)
        with pytest.raises(OSError, match="disk is full"):
            judgements.judge(KEYS[1], True, "ann")
    assert judgements.path.read_bytes() == before
    assert KEYS[1] not in judgements
    assert [file.name for file in judgements.path.parent.iterdir()] == ["judgements.csv"]


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (["00000009,yes,ann,{own}"], r"line 2: there is no video '00000009'; the keys are like '00000000'"),
        (["00000001,yes,ann,{own}", "00000001,no,bob,{own}"], r"line 3: judges video '00000001' a second time"),
        (["00000001,perhaps,ann,{own}"], r"line 2: good must be yes or no, not 'perhaps'"),
        (["00000001,,ann,{own}"], r"line 2: good must be yes or no, not ''"),
        (["00000001,yes,ann,0123456789abcdef"], r"line 2: is a judgement of other videos \(0123456789abcdef"),
        (["00000001,yes,{own}"], r"line 2: 3 cells in place of 4"),
    ],
)
def test_a_file_that_cannot_be_right_is_refused_by_line(judgements, videos, lines, complaint):
    text = "\n".join(["key,good,judge,videos", *lines]).format(own=videos.fingerprint)
    judgements.path.write_text(text)
    with pytest.raises(JudgementError, match=complaint) as error:
        Judgements(judgements.path, videos)
    assert str(judgements.path) in str(error.value)


@pytest.mark.parametrize(
    ("content", "complaint"), [(b"", "first line"), (b"key,good\n", "first line"), (b"\xff", "UTF")]
)
def test_a_file_that_is_no_table_of_judgements_is_named(judgements, videos, content, complaint):
    judgements.path.write_bytes(content)
    with pytest.raises(JudgementError, match=rf"judgements\.csv.*{complaint}"):
        Judgements(judgements.path, videos)


def test_a_file_saved_by_a_table_editor_is_read(judgements, videos):
    line = f"{KEYS[2]}, no ,ann,{videos.fingerprint}\r\n"
    judgements.path.write_bytes(b"\xef\xbb\xbfkey,good,judge,videos\r\n" + line.encode() + b"\r\n")
    assert not Judgements(judgements.path, videos).get(KEYS[2]).good


def test_judgements_of_other_videos_can_be_set_aside_and_are_not_lost(judgements, videos, tmp_path):
    judgements.judge(KEYS[0], True, "ann")
    written = judgements.path.read_bytes()
    others = shards(tmp_path / "others", brightness=100)
    with pytest.raises(JudgementError, match="other videos"):
        Judgements(judgements.path, others)
    assert len(Judgements(judgements.path, others, set_aside=True)) == 0
    assert (tmp_path / f"judgements-{videos.fingerprint}.csv").read_bytes() == written
    assert not judgements.path.exists()


def test_what_is_no_video_cannot_be_judged(judgements):
    with pytest.raises(ValueError, match="no video 'x'"):
        judgements.judge("x", True, "ann")
    assert not judgements.path.exists()


# The person


def test_judging_goes_through_the_videos_and_on_where_it_stopped(judgements, videos):
    chosen = [KEYS[5], KEYS[0], KEYS[3], KEYS[2]]
    judging = Judging(judgements, chosen, "ann")
    for action in ("good", "skip", "bad"):
        judging.act(action)
    assert judging.current == KEYS[2]
    assert judging.judged == 2
    again = Judging(Judgements(judgements.path, videos), chosen, "ann")
    assert again.current == KEYS[0]  # the one that was skipped
    again.act("good")
    assert again.current == KEYS[2]
    again.act("bad")
    assert again.current is None
    again.act("good")  # nothing is left to judge
    said = {key: Judgements(judgements.path, videos).get(key).good for key in chosen}
    assert said == {KEYS[5]: True, KEYS[0]: True, KEYS[3]: False, KEYS[2]: False}


def test_going_back_shows_the_last_video_and_lets_one_change_ones_mind(judgements):
    judging = Judging(judgements, KEYS[:3], "ann")
    judging.act("back")
    assert judging.current == KEYS[0]  # there is nothing before the first
    judging.act("good")
    judging.act("skip")
    judging.act("back")
    judging.act("back")
    assert judging.current == KEYS[0]
    judging.act("bad")
    assert not judgements.get(KEYS[0]).good
    assert judging.current == KEYS[1]
    with pytest.raises(ValueError, match="not 'maybe'"):
        judging.act("maybe")


def test_a_person_is_shown_what_only_the_simulated_judge_has_judged(judgements):
    judgements.judge(KEYS[0], True, "simulated")
    judgements.judge(KEYS[1], True, "bob")
    judging = Judging(judgements, KEYS[:3], "ann")
    assert judging.current == KEYS[0]
    assert judging.judged == 1
    judging.act("bad")
    assert judgements.get(KEYS[0]) == Judgement(KEYS[0], False, "ann")
    assert judging.current == KEYS[2]


def widget_parts(widget):
    picture, text, controls, bar = widget.children
    *buttons, typed = controls.children
    return picture, text, {button.description.split()[0]: button for button in buttons}, typed, bar


def test_buttons_and_letters_of_the_widget_judge_and_show_the_next_video(judgements, videos):
    widget = judging_widget(Judging(judgements, KEYS[:3], "ann"), videos)
    picture, text, buttons, typed, bar = widget_parts(widget)
    assert picture.value == strip_png(videos[0].frames)
    assert text.value.startswith("caption 0")
    buttons["good"].click()
    assert judgements.get(KEYS[0]) == Judgement(KEYS[0], True, "ann")
    assert picture.value == strip_png(videos[1].frames)
    assert (bar.value, bar.max) == (1, 3)
    typed.value = "B"
    assert not judgements.get(KEYS[1]).good
    assert typed.value == ""  # ready for the next letter
    buttons["back"].click()
    assert text.value == "caption 1 (2 of 3 judged, so far bad (ann))"
    typed.value = "gx"  # a letter that means nothing
    assert judgements.get(KEYS[1]).good
    typed.value = "s"
    assert text.value == "2 of 3 judged: no video is left"
    assert picture.layout.display == "none"
    typed.value = "z"
    assert picture.layout.display == "block"


def test_the_widget_stays_where_it_is_when_the_disk_is_full(judgements, videos, monkeypatch):
    widget = judging_widget(Judging(judgements, KEYS[:3], "ann"), videos)
    picture, text, buttons, _, _ = widget_parts(widget)

    def full(self, *rest, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    buttons["good"].click()
    assert "not saved" in text.value
    assert picture.value == strip_png(videos[0].frames)
    monkeypatch.undo()
    buttons["good"].click()
    assert KEYS[0] in judgements


def test_the_film_strip_has_the_frames_in_reading_order(videos):
    import torch

    frames = torch.arange(16, dtype=torch.uint8).view(16, 1, 1, 1).expand(16, 3, 32, 32) * 10
    strip = cv2.imdecode(np.frombuffer(strip_png(frames), np.uint8), cv2.IMREAD_COLOR)
    assert strip.shape == (2 * SIDE + GAP, 8 * SIDE + 7 * GAP, 3)
    centres = [
        strip[SIDE // 2 + row * (SIDE + GAP), SIDE // 2 + column * (SIDE + GAP), 0]
        for row in (0, 1)
        for column in range(8)
    ]
    assert centres == [10 * number for number in range(16)]
