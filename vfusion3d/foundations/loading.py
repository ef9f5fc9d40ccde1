"""How a role finds its model, and the one error where it cannot be had.

A name in `profile.foundations` is the miniature `mini` (bundled in `vfusion3d/weights/<role>/`), a folder on this
machine, or a hub name: `owner/model`, or `owner/model@revision`, which is a branch, a tag or a commit. A miniature
lies in the hub's own file layout, so that all three are loaded by the same code.
The words that load nothing (`stand-in`, `untrained`) are the affair of the role that knows them. A name that ends in
.py is a file of the user's own, whose function plays the role (`role`).
"""

import functools
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import torch

from vfusion3d.runs.claim import short_name
from vfusion3d.runs.memory import check_memory
from vfusion3d.runs.profiles import Profile, ProfileError
from vfusion3d.runs.quiet import keep_quiet, without_bars
from vfusion3d.runs.reading import ReadingError, read_json

Model = TypeVar("Model")
Asked = TypeVar("Asked", bound=Callable)
BUNDLED = Path(__file__).parent.parent / "weights"
STAND_INS = ("text_to_image", "image_features", "saliency", "background_removal", "prompt_filter", "captioner")
OFFLINE = {"perceptual_distance": "untrained", **dict.fromkeys(STAND_INS, "stand-in")}  # beside a bundled miniature

HUB_NAME = re.compile(r"(?:hf-hub:)?([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
CONFIGS = ("config.json", "model_index.json", "open_clip_config.json")  # every repository that we load has one of them

_loaded: dict[tuple, Any] = {}


class ModelUnavailable(OSError):
    """A model that a role cannot get: the message names both, the reason, and how to run offline."""


def role(name: str) -> Callable[[Asked], Asked]:
    """A decorator of `f(profile, ...)`: a Python file of the user's own can play the role `name`.

    Where the profile names a .py file, its function of the same name is called in place of the decorated one, with the
    same arguments. Raises ModelUnavailable where there is no such file or function, or the file cannot be run.
    """

    def with_own_files(ask: Asked) -> Asked:
        @functools.wraps(ask)
        def asked(profile: Profile, *args: Any, **options: Any) -> Any:
            if not getattr(profile.foundations, name).endswith(".py"):
                return ask(profile, *args, **options)
            own = getattr(_own_file(profile, name), ask.__name__, None)
            if own is None:
                raise unavailable(profile, name, f"the file has no function {ask.__name__}(profile)")
            return own(profile, *args, **options)

        return asked

    return with_own_files


def _own_file(profile: Profile, role: str) -> ModuleType:
    """The Python file that the profile names for this role as a module: run once, and again when it has changed."""
    path = Path(getattr(profile.foundations, role)).expanduser().resolve()
    if not path.is_file():
        raise unavailable(profile, role, "there is no such file")
    key = ("file", str(path), path.stat().st_mtime_ns)
    if key not in _loaded:
        spec = importlib.util.spec_from_file_location(f"own_{path.stem}", path)
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # anything may be wrong with it
            raise unavailable(profile, role, f"{type(error).__name__}: {error}") from error
        _loaded[key] = module
    return _loaded[key]


def name_of(profile: Profile, role: str) -> str:
    """What settings record of the model that plays a role: its name; of a Python file, its name and what it holds.

    Of a model of the hub, its name and the commit that is used (`hub_commit`). Raises ModelUnavailable where there is
    no such file, and where the hub cannot be reached.
    """
    name = getattr(profile.foundations, role)
    if not name.endswith(".py"):
        elsewhere = Path(name).expanduser().exists() or (role == "clip" and is_open_clip(name))
        try:
            return name if elsewhere else "@".join(filter(None, hub_commit(name)))
        except OSError as error:
            raise unavailable(profile, role, str(error)) from error
    path = Path(name).expanduser()
    if not path.is_file():
        raise unavailable(profile, role, "there is no such file")
    return f"{path.name} {short_name(path.read_bytes())}"


def hub_commit(name: str) -> tuple[str, str | None]:
    """The hub's name of a model, and the commit that its revision stands for: what is pinned, downloaded and recorded.

    name: `owner/model` or `owner/model@revision`. A revision that was downloaded before stays what it was then on this
    machine; one that was not, the hub is asked about. What is no name of the hub comes back as it is, without a commit,
    and so does a revision that the hub does not know: loading it will say why. Raises OSError at once where there is no
    network: loading would try for half a minute, and blame the model.
    """
    known = HUB_NAME.fullmatch(name)
    if not known:
        return name, None
    repository, revision = known[1], known[2] or "main"
    if re.fullmatch("[0-9a-f]{40}", revision):
        return repository, revision
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    for file in CONFIGS:
        found = try_to_load_from_cache(repository, file, revision=revision)
        if isinstance(found, str):
            return repository, Path(found).parent.name  # of the snapshot
    try:
        return repository, HfApi().model_info(repository, revision=revision, timeout=10).sha
    except HfHubHTTPError:  # no such model, no right to see it
        return repository, known[2]
    except Exception as error:  # of the network's many kinds
        why = f"the hub cannot be reached, and {name} was not downloaded before ({error})"
        raise OSError(why) from error


def hub_folder(name: str, files: Sequence[str]) -> Path:
    """The folder with these files of a model of the hub at its commit (`hub_commit`), downloaded where it has to be.

    Raises OSError that says why they cannot be had, at once for what is no name of the hub.
    """
    if not HUB_NAME.fullmatch(name):
        raise OSError(f"weights {name!r}: no folder here, and no name on the hub, which is owner/model")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        repository, revision = hub_commit(name)
        *_, path = (hf_hub_download(repository, file, revision=revision) for file in files)
        return Path(path).parent
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:300].rstrip(". ")
        raise OSError(f"weights {name!r} are not here, and could not be downloaded from the hub ({reason})") from error


def is_open_clip(name: str) -> bool:
    """Whether a name is ARCHITECTURE/TAG of open_clip, which looks like one of the hub's."""
    import open_clip

    return name.partition("/")[0] in open_clip.list_models()


def pretrained(kind: Any, source: str | Path, **options: Any) -> Any:
    """`kind.from_pretrained` of a folder, or of a model of the hub at its commit (`hub_commit`)."""
    if Path(source).exists():
        with without_bars() if Path(source).is_relative_to(BUNDLED) else nullcontext():
            return kind.from_pretrained(str(source), **options)
    name, revision = hub_commit(str(source))
    return kind.from_pretrained(name, **options, **({"revision": revision} if revision else {}))


@contextmanager
def only_numbers() -> Iterator[None]:
    """Whatever a library reads with torch.load in here, it gets numbers of it and runs no code: no pickle."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def device_of(profile: Profile) -> torch.device:
    """Where the profile's models run; "auto" is a CUDA GPU if there is one, else the CPU.

    Raises ProfileError where the profile asks for a GPU and there is none.
    """
    there = torch.cuda.is_available()
    if profile.device == "auto":
        return torch.device("cuda" if there else "cpu")
    if profile.device == "cuda" and not there:
        raise ProfileError(f"profile {profile.name} runs on cuda, and PyTorch finds no GPU here: see its key device")
    return torch.device(profile.device)


def dtype_of(profile: Profile) -> torch.dtype:
    """The floating-point type of the profile's pretrained models."""
    return getattr(torch, profile.dtype)


def source_of(profile: Profile, role: str) -> str:
    """What `from_pretrained` takes for this role: the path of a folder, or a name of the hub.

    Raises ModelUnavailable for a path that is not there and for a miniature that is not bundled.
    """
    name = getattr(profile.foundations, role)
    if name == "mini":
        folder = BUNDLED / role
        if not folder.is_dir():
            raise unavailable(profile, role, f"no miniature is bundled in {folder.parent.name}/{role}")
        return str(folder)
    path = Path(name).expanduser()
    if path.exists():
        return str(path.resolve())
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise unavailable(profile, role, "there is no such folder")
    return name


def load_once(profile: Profile, role: str, load: Callable[[str, torch.device, torch.dtype], Model]) -> Model:
    """`load(source, device, dtype)`, called once a process for each role, source, device and dtype.

    Raises ModelUnavailable for whatever went wrong on the way: no network, a missing file, too little memory.
    """
    source = source_of(profile, role)
    device = device_of(profile)
    dtype = dtype_of(profile)
    key = (role, source, str(device), dtype)
    if key not in _loaded:
        try:
            if Path(source).is_dir():
                check_configs(Path(source))
            keep_quiet()
            with only_numbers():
                _loaded[key] = load(source, device, dtype)
        except ModelUnavailable:
            raise
        except Exception as error:  # libraries raise nearly anything where a download fails
            raise unavailable(profile, role, " ".join(f"{type(error).__name__}: {error}".split())) from error
    return _loaded[key]


SIZES = re.compile(r"(\w+_)?(size|dim|width|heads|layers|channels|features)|depth|num_frames")
MOST = 2**20  # of any of these: a vocabulary has 250,000 words


def check_configs(folder: Path) -> None:
    """Raise ReadingError for a config in a model's folder that is no JSON, or whose sizes nobody can mean.

    Libraries allocate what a config says, and compare it with the weights only then.
    """
    for path in sorted(folder.rglob("*config*.json")):
        layers = width = 0
        for name, value in _numbers(read_json(path, dict[str, Any], "copy the model's folder again")):
            if not SIZES.fullmatch(name):
                continue
            if value > MOST:
                raise ReadingError(f"{path}: {name} is {value}: copy the model's folder again")
            layers = max(layers, value if "layers" in name else 0)
            width = max(width, value if name in ("hidden_size", "width", "d_model") else 0)
        check_memory(f"{path}: {layers} layers of width {width}", layers * (2**18 + 8 * width**2))


def _numbers(config: Any, name: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(config, dict):
        for key, value in config.items():
            yield from _numbers(value, key)
    elif isinstance(config, list):
        for value in config:
            yield from _numbers(value, name)
    elif isinstance(config, int | float) and not isinstance(config, bool):
        yield name, config


def unavailable(profile: Profile, role: str, reason: str) -> ModelUnavailable:
    """The error to raise where the model that the profile names for this role cannot be had."""
    name = getattr(profile.foundations, role)
    known = (OFFLINE.get(role), "mini" if (BUNDLED / role).is_dir() else None)
    ways = ", ".join(way for way in known if way and way != name)
    folder = "a folder that holds such a model"
    return ModelUnavailable(
        f"the model {name!r} (role {role}) could not be loaded: {reason.rstrip('. ')}. "
        f"To run offline, set foundations.{role} to {f'{ways} or {folder}' if ways else folder}"
    )
