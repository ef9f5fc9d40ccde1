"""Profiles: the paper's numbers, the scales of the others, and errors a person can act on."""

from dataclasses import FrozenInstanceError

import pytest
import yaml

from vfusion3d.cli.page import PROFILES
from vfusion3d.runs.profiles import FOLDER, ProfileError, load_profile

NAMES = ["smoke", "laptop", "overnight", "gpu", "paper"]


@pytest.fixture
def edited(tmp_path):
    """A function that writes the laptop profile with one change and returns its path."""

    def write(change) -> str:
        content = yaml.safe_load((FOLDER / "laptop.yaml").read_text()) | {"name": "mine"}
        change(content)
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(content))
        return str(path)

    return write


def test_the_five_profiles_are_the_bundled_ones():
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == sorted(NAMES) == sorted(PROFILES)
    assert all(load_profile(name).name == name for name in NAMES)


def test_the_paper_profile_has_the_papers_numbers():
    paper = load_profile("paper")
    recipe, data = paper.training, paper.data
    assert [(stage.resolution, stage.epochs) for stage in recipe.stages] == [
        (128, 5),
        (192, 5),
        (256, 5),
        (320, 5),
        (384, 10),
    ]
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate, recipe.warmup_steps) == (30, 1024, 4e-4, 3000)
    assert recipe.batch_size * recipe.views == 4096
    assert (recipe.patch_size, recipe.camera_noise, recipe.losses.mse, paper.model.image_size) == (128, 0.02, 0, 512)
    # a restart "after first 10 epochs" (4.1) is one after the stage at resolution 192 (3.3)
    assert sum(stage.epochs for stage in recipe.stages[: recipe.restart_after_stage]) == 10
    assert (data.objects_3d, data.prompts, data.videos, data.judged_videos) == (100_000, 4_000_000, 4_000_000, 2_000)
    assert (data.test_objects, data.eval_images, data.eval_prompts) == (500, 25, 40)
    assert paper.model.start is None
    assert paper.dtype == "float16"  # of the pretrained models; at the other scales float32, the default
    assert {load_profile(name).dtype for name in ("smoke", "laptop", "gpu")} == {"float32"}


@pytest.mark.parametrize("name", NAMES)
def test_counts_are_the_papers_divided_by_the_scale(name):
    profile, paper = load_profile(name), load_profile("paper").data
    assert profile.data.prompts == profile.scaled(paper.prompts)
    assert profile.data.videos == profile.scaled(paper.videos)
    assert profile.data.objects_3d == profile.scaled_3d(paper.objects_3d)
    assert (profile.video.frames, profile.data.views_3d) == (16, 32)


@pytest.mark.parametrize("name", ["laptop", "gpu", "paper"])
def test_outside_smoke_test_sets_are_large_enough_to_mean_something(name):
    profile = load_profile(name)
    assert min(profile.data.test_objects, profile.data.eval_images, profile.data.eval_prompts) >= 20
    assert profile.scale_3d <= 1000


@pytest.mark.parametrize("name", NAMES)
def test_every_profile_keeps_the_shape_of_the_recipe(name):
    """Five growing stages, the last twice as long, and views large enough for them and for the input."""
    profile, paper = load_profile(name), load_profile("paper")
    stages = profile.training.stages
    share = [stage.epochs / profile.training.epochs for stage in stages]
    assert share == pytest.approx([stage.epochs / 30 for stage in paper.training.stages])
    assert [stage.resolution for stage in stages] == sorted({stage.resolution for stage in stages})
    assert profile.data.render_size >= max(stages[-1].resolution, profile.model.image_size)


def test_table_3_at_laptop_has_10_50_and_100_objects():
    laptop = load_profile("laptop")
    assert [laptop.scaled_3d(count) for count in (10_000, 50_000, 100_000)] == [10, 50, 100]


def test_scaled_counts_have_a_floor():
    assert load_profile("smoke").scaled(2_000, least=20) == 20


def test_a_profile_cannot_be_changed_in_place():
    with pytest.raises(FrozenInstanceError):
        load_profile("smoke").training.batch_size = 2


def test_an_unknown_key_names_the_file_and_the_nearest_known_key(edited):
    path = edited(lambda content: content["training"].update(learning_rte=1e-3))
    with pytest.raises(ProfileError, match=r"mine\.yaml: unknown key training\.learning_rte.*training\.learning_rate"):
        load_profile(path)


def test_an_unknown_key_inside_a_list_says_where_it_stands(edited):
    path = edited(lambda content: content["training"]["stages"][2].update(epoch=3))
    with pytest.raises(ProfileError, match=r"training\.stages\[2\]\.epoch; .* training\.stages\[2\]\.epochs"):
        load_profile(path)


def test_a_missing_key_is_named(edited):
    with pytest.raises(ProfileError, match=r"mine\.yaml: missing: data\.videos"):
        load_profile(edited(lambda content: content["data"].pop("videos")))


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("data", "videos", "many", r"data\.videos must be of type int, not 'many'"),
        ("data", "videos", True, r"data\.videos must be of type int, not True"),
        ("data", "videos", 1.5, r"data\.videos must be of type int"),
        ("data", "videos", 0, r"data: videos must be a whole number from 1 to .*, not 0"),
        ("training", "learning_rate", "fast", r"training\.learning_rate must be of type float, not 'fast'"),
        ("training", "learning_rate", ".nan", r"training\.learning_rate must be a finite number"),
        ("training", "batch_size", 10**9, r"training: batch_size must be a whole number from 1 to .*, not 1000000000"),
        ("data", "views_3d", 10**6, r"data: views_3d must be a whole number"),
        ("training", "samples_per_ray", 10**6, r"training: samples_per_ray must be a whole number"),
        ("training", "multi_stage", 1, r"training\.multi_stage must be of type bool"),
        ("training", "mixed_precision", "fp16", r"training\.mixed_precision must be one of no, bf16"),
        ("training", "stages", 32, r"training\.stages must be a list"),
        ("training", "stages", [], r"training: stages is empty"),
        ("training", "patch_size", 33, r"training: patch_size 33 does not fit .* 32"),
        ("training", "restart_after_stage", 6, r"training: restart_after_stage 6 is none of the 5"),
        ("training", "losses", {"lpips": 0, "opacity": 0}, r"training\.losses: the weights of lpips"),
        ("video", "motion_bucket", 256, r"video: motion_bucket is 256"),
        ("model", "size", "huge", r"model\.size must be one of mini, released"),
    ],
)
def test_a_wrong_value_is_named(edited, section, key, value, message):
    if value == ".nan":
        value = float("nan")
    with pytest.raises(ProfileError, match=message):
        load_profile(edited(lambda content: content[section].update({key: value})))


def test_a_profile_of_ones_own_has_a_name_of_its_own(edited):
    assert load_profile(edited(lambda content: None)).name == "mine"
    with pytest.raises(ProfileError, match=r"mine\.yaml: name: gpu is another profile's"):
        load_profile(edited(lambda content: content.update(name="gpu")))


def test_an_unknown_dtype_lists_the_known_ones(edited):
    with pytest.raises(ProfileError, match="dtype must be one of float32, bfloat16, float16, not 'fp16'"):
        load_profile(edited(lambda content: content.update(dtype="fp16")))


def test_a_section_that_is_no_mapping_is_named(edited):
    with pytest.raises(ProfileError, match=r"data must be a mapping"):
        load_profile(edited(lambda content: content.update(data=3)))


def test_numbers_may_be_written_as_people_write_them(edited):
    """YAML 1.1 reads `3e-4` as text."""
    assert load_profile(edited(lambda content: content["training"].update(learning_rate="3e-4"))).training == (
        load_profile("laptop").training
    )


def test_null_switches_the_restart_off(edited):
    path = edited(lambda content: content["training"].update(restart_after_stage=None))
    assert load_profile(path).training.restart_after_stage is None


@pytest.mark.parametrize("content", ["", "- 1\n", "name: [", "just words"])
def test_a_file_that_holds_no_profile_is_named(tmp_path, content):
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    with pytest.raises(ProfileError, match=r"broken\.yaml"):
        load_profile(path)


def test_a_name_that_is_no_profile_lists_those_there_are():
    with pytest.raises(ProfileError, match=r"'laptp'.*gpu, laptop, overnight, paper, smoke"):
        load_profile("laptp")


def test_a_name_that_would_leave_its_folder_is_refused(edited):
    with pytest.raises(ProfileError, match="name"):
        load_profile(edited(lambda content: content.update(name="../laptop")))


def test_a_key_that_stands_twice_is_named_with_its_line(tmp_path):
    path = tmp_path / "mine.yaml"
    text = (FOLDER / "smoke.yaml").read_text().replace("name: smoke", "name: mine")
    path.write_text(text.replace("prompts: 40", "prompts: 40\n  prompts: 50"))
    with pytest.raises(ProfileError, match=r"mine\.yaml: the key prompts stands twice in the mapping of line \d+$"):
        load_profile(path)
