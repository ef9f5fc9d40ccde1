import json
import os
from dataclasses import dataclass, field

import pytest

from vfusion3d.runs.claim import (
    DEFAULTS,
    Arguments,
    Kind,
    changes,
    claim_folder,
    made_with,
    record,
    save_whole,
    write_record,
    write_whole,
)

SETTINGS = {"views": 16, "objects": {"name": "primitives", "count": 3}, "elevation": (0.0, 0.5)}
KIND = Kind("results", ("result", "model/*.txt", "shard-[0-9].tar"))


def test_the_same_settings_find_their_folder_again(tmp_path):
    claim_folder(tmp_path / "run", SETTINGS, KIND)
    (tmp_path / "run" / "result").write_text("kept")
    claim_folder(tmp_path / "run", SETTINGS, KIND, overwrite=True)
    assert (tmp_path / "run" / "result").read_text() == "kept"


def test_other_settings_are_refused_by_name_and_overwrite_begins_anew(tmp_path):
    claim_folder(tmp_path / "run", SETTINGS, KIND)
    (tmp_path / "run" / "result").write_text("old")
    other = SETTINGS | {"objects": {"name": "primitives", "count": 4}}
    with pytest.raises(ValueError, match=r"objects\.count: 3 there, 4 now"):
        claim_folder(tmp_path / "run", other, KIND)
    assert (tmp_path / "run" / "result").exists()
    claim_folder(tmp_path / "run", other, KIND, overwrite=True)
    assert not (tmp_path / "run" / "result").exists()
    claim_folder(tmp_path / "run", other, KIND)


def test_a_folder_of_something_else_is_neither_used_nor_deleted(tmp_path):
    (tmp_path / "photo.jpg").write_text("mine")
    with pytest.raises(ValueError, match=r"no settings\.json"):
        claim_folder(tmp_path, SETTINGS, KIND, overwrite=True)
    assert (tmp_path / "photo.jpg").exists()


def test_a_file_manager_s_hidden_file_keeps_nobody_from_a_folder(tmp_path):
    (tmp_path / ".DS_Store").touch()
    claim_folder(tmp_path, SETTINGS, KIND)
    claim_folder(tmp_path, SETTINGS | {"views": 8}, KIND, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {".DS_Store", "settings.json"}


@dataclass(frozen=True)
class Loss:
    mse: float = 0.0


@dataclass(frozen=True)
class DepthLoss(Loss):
    depth: float = 0.0
    scales: tuple[int, ...] = field(default_factory=lambda: (1, 2))


@dataclass(frozen=True)
class Part:
    epochs: int


@dataclass(frozen=True)
class SoftPart(Part):
    blur: float = 0.5


def render(count: int, light: str = "day") -> None:
    """Something whose arguments are settings."""


def record_of(**settings) -> dict:
    """A folder's record as a version wrote it that kept no defaults beside the settings."""
    known = json.loads(json.dumps(record(settings)))
    del known[DEFAULTS]
    return known


@pytest.mark.parametrize("record_of", [record_of, lambda **settings: record(settings)])
def test_a_field_that_is_new_counts_as_its_default_wherever_it_stands(record_of):
    old = record_of(losses=Loss(mse=1.0), parts=[Part(3), Part(4)], world=Arguments(render, {"count": 2}))
    lit = Arguments(render, {"count": 2, "light": "day"})
    assert changes(old, {"losses": DepthLoss(mse=1.0), "parts": (SoftPart(3), SoftPart(4)), "world": lit}) == []
    dark = Arguments(render, {"count": 2, "light": "night"})
    other = {"losses": DepthLoss(1.0, depth=5.0, scales=(1,)), "parts": (SoftPart(3), SoftPart(4, 0.1)), "world": dark}
    assert changes(old, other) == [
        "losses.depth: 0.0 there, 5.0 now",
        "losses.scales: [1, 2] there, [1] now",
        "parts.1.blur: 0.5 there, 0.1 now",
        "world.light: day there, night now",
    ]


def test_a_field_that_this_version_does_not_know_counts_as_the_default_that_was_kept_with_it():
    assert changes(record({"losses": DepthLoss(mse=1.0)}), {"losses": Loss(mse=1.0)}) == []
    deep = record({"losses": DepthLoss(mse=1.0, depth=5.0)})
    assert changes(deep, {"losses": Loss(mse=1.0)}) == ["losses.depth: 5.0 there, 0.0 now"]


def test_a_default_that_has_changed_is_a_difference_where_the_field_was_known():
    assert changes(record({"losses": Loss()}), {"losses": Loss(mse=1.0)}) == ["losses.mse: 0.0 there, 1.0 now"]


def test_what_has_no_default_counts_as_none_where_it_is_missing(tmp_path):
    claim_folder(tmp_path / "run", SETTINGS, KIND)
    claim_folder(tmp_path / "run", SETTINGS | {"indices": None}, KIND)
    with pytest.raises(ValueError, match="depth: None there, 5 now"):
        claim_folder(tmp_path / "run", SETTINGS | {"depth": 5}, KIND)
    with pytest.raises(ValueError, match=r"elevation: .*there, None now; views: 16 there, None now"):
        claim_folder(tmp_path / "run", {"objects": SETTINGS["objects"]}, KIND)
    assert changes(record({"parts": [Part(3)]}), {"parts": [Part(3), Part(4)]}) != []


def test_a_record_says_in_what_a_thing_was_made(tmp_path):
    assert not made_with(tmp_path / "model.json", {"losses": Loss()})
    write_record(tmp_path / "model.json", {"losses": Loss(), "size": (1, 2)})
    assert made_with(tmp_path / "model.json", {"losses": DepthLoss(), "size": (1, 2)})
    assert not made_with(tmp_path / "model.json", {"losses": DepthLoss(depth=1.0), "size": (1, 2)})


def test_what_a_writer_puts_in_the_place_of_its_file_is_seen_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    def write(partial):  # as safetensors does
        (tmp_path / "other").write_text("new")
        (tmp_path / "other").chmod(0o600)
        os.replace(tmp_path / "other", partial)

    def save(folder):
        folder.mkdir()
        write(folder / "weights")

    seen, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: seen.append(os.fstat(file).st_ino) or real(file))
    (tmp_path / "usual").touch()
    save_whole(save, tmp_path / "model")
    for file in (write_whole(tmp_path / "weights", write), tmp_path / "model" / "weights"):
        assert file.stat().st_ino in seen
        assert file.stat().st_mode == (tmp_path / "usual").stat().st_mode, "readable by whom other files are"


def test_a_folder_is_replaced_only_by_a_whole_one(tmp_path):
    def save(folder, text, dies=False):
        folder.mkdir()
        (folder / "first").write_text(text)
        if dies:
            raise KeyboardInterrupt
        (folder / "second").write_text(text)

    model = tmp_path / "model"
    save_whole(lambda folder: save(folder, "old"), model)
    with pytest.raises(KeyboardInterrupt):
        save_whole(lambda folder: save(folder, "new", dies=True), model)
    assert [file.read_text() for file in sorted(model.iterdir())] == ["old", "old"]
    save_whole(lambda folder: save(folder, "new"), model)
    assert [file.read_text() for file in sorted(model.iterdir())] == ["new", "new"]
    assert list(tmp_path.iterdir()) == [model]


@pytest.mark.parametrize("renames", [0, 1])
def test_a_kill_while_a_folder_is_replaced_loses_neither_the_old_one_nor_the_next(tmp_path, monkeypatch, renames):
    def save(folder, text):
        folder.mkdir()
        (folder / "weights").write_text(text)

    done, rename = [], os.replace

    def dies(old, new):
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(new)
        rename(old, new)

    model = tmp_path / "model"
    save_whole(lambda folder: save(folder, "old"), model)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            save_whole(lambda folder: save(folder, "new"), model)
    assert "old" in [file.read_text() for file in tmp_path.glob("*/weights")]
    with pytest.raises(ZeroDivisionError):
        save_whole(lambda folder: 1 / 0, model)
    assert (model / "weights").read_text() == "old"
    save_whole(lambda folder: save(folder, "newer"), model)
    assert (model / "weights").read_text() == "newer"
    assert list(tmp_path.iterdir()) == [model]


# ------------------------------------------------------------------------------------------ what is ours, what is not


def files_of(folder) -> dict:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ('{"editor.fontSize": 12, "seed": 0}', r"holds something else, not results"),
        ("{}", "holds something else, not results"),
        ("[]", r"settings\.json: the file must be a mapping, not \[\]"),
        ("null", r"settings\.json: the file must be a mapping, not None"),
        ('{"views": 16, "obj', r"settings\.json is not whole"),
        ("[" * 100_000, r"settings\.json is no JSON of ours"),
        ('{"vfusion3d": {"kind": "trainings", "version": 1}}', "holds trainings, version 1, not results"),
        ('{"vfusion3d": {"kind": "results", "version": 2}}', "holds results, version 2, not results"),
        ('{"vfusion3d": "results"}', "not results"),
    ],
)
def test_a_folder_whose_settings_are_not_ours_is_left_as_it_is(tmp_path, settings, complaint, overwrite):
    (tmp_path / "settings.json").write_text(settings)
    (tmp_path / "result").write_text("a stranger's")
    before = files_of(tmp_path)
    with pytest.raises(ValueError, match=complaint):
        claim_folder(tmp_path, SETTINGS, KIND, overwrite=overwrite)
    assert files_of(tmp_path) == before


def test_a_folder_of_ours_from_before_there_was_a_mark_goes_on_and_can_be_overwritten(tmp_path):
    write_record(tmp_path / "settings.json", SETTINGS | {"another": 1})  # without a kind: as it was then
    (tmp_path / "result").write_text("old")
    with pytest.raises(ValueError, match="another: 1 there, None now"):
        claim_folder(tmp_path, SETTINGS, KIND)
    claim_folder(tmp_path, SETTINGS, KIND, overwrite=True)
    assert list(files_of(tmp_path)) == ["settings.json"]
    assert json.loads((tmp_path / "settings.json").read_text())["vfusion3d"] == {"kind": "results", "version": 1}
    claim_folder(tmp_path, SETTINGS, KIND)


@pytest.mark.parametrize("name", ["notes.txt", "shard-old.tar", "model/notes.md", "mine/result", "model/deep/a.txt"])
def test_overwriting_deletes_nothing_where_a_file_is_not_ours(tmp_path, name):
    claim_folder(tmp_path, SETTINGS, KIND)
    for ours in ("result", "model/a.txt", "shard-1.tar", name):
        (tmp_path / ours).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / ours).write_text("kept")
    before = files_of(tmp_path)
    with pytest.raises(ValueError, match=rf"{tmp_path / name.split('/')[0]}.* nothing was deleted"):
        claim_folder(tmp_path, {"views": 1}, KIND, overwrite=True)
    assert files_of(tmp_path) == before


def test_overwriting_deletes_all_that_is_ours_whole_or_not_and_follows_no_link(tmp_path):
    claim_folder(tmp_path / "run", SETTINGS, KIND)
    (tmp_path / "elsewhere").write_text("mine")
    for name in ("result", "shard-1.tar.partial", "result.01234567.partial", "model.old.partial/a.txt", ".DS_Store"):
        (tmp_path / "run" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "run" / name).touch()
    (tmp_path / "run" / "shard-2.tar").symlink_to(tmp_path / "elsewhere")
    claim_folder(tmp_path / "run", {"views": 1}, KIND, overwrite=True)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".DS_Store", "settings.json"]
    assert (tmp_path / "elsewhere").read_text() == "mine"
