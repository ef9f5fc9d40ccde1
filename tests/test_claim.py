import os

import pytest

from vfusion3d.runs.claim import claim_folder, save_whole

SETTINGS = {"views": 16, "objects": {"name": "primitives", "count": 3}, "elevation": (0.0, 0.5)}


def test_the_same_settings_find_their_folder_again(tmp_path):
    claim_folder(tmp_path / "run", SETTINGS)
    (tmp_path / "run" / "result").write_text("kept")
    claim_folder(tmp_path / "run", SETTINGS, overwrite=True)
    assert (tmp_path / "run" / "result").read_text() == "kept"


def test_other_settings_are_refused_by_name_and_overwrite_begins_anew(tmp_path):
    claim_folder(tmp_path / "run", SETTINGS)
    (tmp_path / "run" / "result").write_text("old")
    other = SETTINGS | {"objects": {"name": "primitives", "count": 4}}
    with pytest.raises(ValueError, match=r"objects\.count: 3 there, 4 now"):
        claim_folder(tmp_path / "run", other)
    assert (tmp_path / "run" / "result").exists()
    claim_folder(tmp_path / "run", other, overwrite=True)
    assert not (tmp_path / "run" / "result").exists()
    claim_folder(tmp_path / "run", other)


def test_a_folder_of_something_else_is_neither_used_nor_deleted(tmp_path):
    (tmp_path / "photo.jpg").write_text("mine")
    with pytest.raises(ValueError, match=r"no settings\.json"):
        claim_folder(tmp_path, SETTINGS, overwrite=True)
    assert (tmp_path / "photo.jpg").exists()


def test_a_setting_that_an_older_version_did_not_know_is_no_difference(tmp_path):
    claim_folder(tmp_path / "run", SETTINGS)
    claim_folder(tmp_path / "run", SETTINGS | {"compile": False})


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
