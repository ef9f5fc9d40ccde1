"""Multi-view data as WebDataset tar shards: one sample an object, written crash-safe, read at random.

A folder holds `shard-000000.tar`, ... and `index.json`. A sample is the members `KEY.view00.png` (RGBA, straight
alpha), ..., `KEY.cameras.json`, `KEY.txt` (caption) and, last, `KEY.json` (metadata). Notable: a shard grows under
a `.partial` name and gets its own name when it is whole. The last member is the sample's full stop: after a kill, the
writer keeps every sample that has one, cuts off the torn rest and goes on. The same samples give the same bytes.

Reading needs neither renderer nor tar library: the index knows where every member lies.
"""

import bisect
import contextlib
import hashlib
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vfusion3d.cameras import is_rotation
from vfusion3d.runs.claim import naming_a_full_disk, short_name, write_whole
from vfusion3d.runs.lock import InUse, take
from vfusion3d.runs.reading import ReadingError, parse_json, read_json, shown

BLOCK = tarfile.BLOCKSIZE
LAST_MEMBER = "json"
PICTURE = re.compile(r"(?:view|frame|mask)(\d{2,6})\.(?:png|jpg)")
KEY = re.compile(r"[^./\\\s\x00]+")
LONG_NAME = re.compile(rb"\d (?:path|size)=")  # what an extended header of a tar archive may say of a file
SHARD = re.compile(r"shard-\d{6,}\.tar")
PNG = (".png", cv2.IMWRITE_PNG_COMPRESSION, 1)
JPEG = (".jpg", cv2.IMWRITE_JPEG_QUALITY, 95)


class ShardError(ReadingError):
    """A shard or an index that cannot be read; the message names the file and what to do."""


class _Shard(TypedDict):
    name: str
    bytes: int
    sha256: str
    samples: list[Any]  # {key, members: {name: [offset, size]}}: there may be millions, which `_check` reads faster


class _Index(TypedDict):
    shards: list[_Shard]
    settings: NotRequired[dict[str, Any]]
    skipped: NotRequired[dict[str, str]]


class Cameras(TypedDict):
    """What `cameras.json` holds."""

    cam2world: list[list[list[float]]]
    intrinsics: list[list[float]]


class Label(TypedDict):
    """What is known of a synthetic video beside its masks. elevation: radians."""

    score: float
    elevation: float


@dataclass(frozen=True)
class MultiviewSample:
    """One object seen from V cameras (conventions: `vfusion3d.cameras`)."""

    key: str
    rgba: UInt8[Tensor, "views 4 size size"]  # straight alpha
    cam2world: Float[Tensor, "views 3 4"]
    intrinsics: Float[Tensor, "views 4"]
    caption: str
    metadata: dict[str, Any]


@dataclass(frozen=True)
class VideoSample:
    """A video; a picture is a video of one frame."""

    key: str
    frames: UInt8[Tensor, "frames 3 height width"]
    caption: str
    metadata: dict[str, Any]


def encode_sample(
    rgba: UInt8[np.ndarray, "views size size 4"],
    cam2world: Float[Tensor, "views 3 4"],
    intrinsics: Float[Tensor, "views 4"],
    caption: str,
    metadata: Mapping[str, Any],
) -> dict[str, bytes]:
    """The members of a sample, in the order in which a shard has them: what `ShardWriter.write` takes."""
    members = {f"view{number:02d}.png": _encode(view, *PNG) for number, view in enumerate(rgba)}
    cameras = {"cam2world": _exact(cam2world), "intrinsics": _exact(intrinsics)}
    members["cameras.json"] = json.dumps(cameras).encode()
    members["txt"] = caption.encode()
    members[LAST_MEMBER] = json.dumps(metadata, sort_keys=True).encode()
    return members


def encode_video(
    frames: UInt8[np.ndarray, "frames height width 3"], caption: str, metadata: Mapping[str, Any]
) -> dict[str, bytes]:
    """The members of a video sample: each frame a JPEG of quality 95, the caption, the metadata."""
    members = {f"frame{number:02d}.jpg": _encode(frame, *JPEG) for number, frame in enumerate(frames)}
    members["txt"] = caption.encode()
    members[LAST_MEMBER] = json.dumps(metadata, sort_keys=True).encode()
    return members


def shard_path(folder: str | Path, number: int) -> Path:
    """Where shard `number` of a folder lies."""
    return Path(folder) / f"shard-{number:06d}.tar"


def written_keys(path: str | Path) -> list[str]:
    """The keys of the whole samples in a shard, finished or still `.partial`; none where there is neither."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    for found in (path, partial, path):  # twice, for a writer may finish it meanwhile
        with contextlib.suppress(FileNotFoundError):
            return list(_scan(found)[0])
    return []


class ShardWriter(contextlib.AbstractContextManager):
    """Writes one shard sample by sample. Opened again after a crash, it goes on after the last whole sample.

    Used in a `with` block: left in peace the shard is finished, left by an exception it stays `.partial`. `keys` are
    the samples it already holds. Raises FileExistsError where the shard is finished, OSError (with the file and what
    is safe) where the disk is full or another process writes the same shard.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.partial = self.path.with_name(self.path.name + ".partial")
        if self.path.exists():
            raise FileExistsError(f"{self.path} is finished: delete it to write it again")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.partial, "r+b" if self.partial.exists() else "w+b", buffering=0)  # noqa: SIM115
        if not take(self._file):
            self._file.close()
            raise InUse(f"{self.partial}: another process is writing this shard: wait for it or stop it")
        samples, self._end = _scan(self.partial)
        self._file.truncate(self._end)
        self._file.seek(self._end)
        self.keys: list[str] = list(samples)

    def write(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append a sample: all of it or, after a crash, nothing of it. The last member must be `json`."""
        if not KEY.fullmatch(key):
            raise ValueError(f"a sample's key must be free of dots, slashes and spaces, not {key!r}")
        if key in self.keys:
            raise ValueError(f"{self.partial} already holds a sample {key!r}")
        if list(members)[-1:] != [LAST_MEMBER]:
            raise ValueError(f"the last member of sample {key!r} must be {LAST_MEMBER!r}: it marks the sample as whole")
        data = b"".join(_tar_member(f"{key}.{name}", content) for name, content in members.items())
        self._append(data, f"sample {key}")
        self.keys.append(key)

    def finish(self) -> Path:
        """Close the archive and give it its name."""
        self._append(bytes(2 * BLOCK), "the end of the archive")
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self.partial, self.path)
        return self.path

    def close(self) -> None:
        """Leave the shard unfinished, to go on later."""
        self._file.close()

    def _append(self, data: bytes, what: str) -> None:
        try:
            rest = memoryview(data)
            while rest:  # a disk that is filling up writes a part before it fails
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._file.truncate(self._end)
            self._file.seek(self._end)
            with naming_a_full_disk(self.partial, f"its {len(self.keys)} whole samples are kept, without {what}"):
                raise OSError(error.errno, f"{error.strerror} while writing {what}", str(self.partial)) from error
        self._end += len(data)

    def __exit__(self, kind, value, traceback) -> None:
        if kind is None:
            self.finish()
        else:
            self.close()


def write_index(folder: str | Path, **extra: Any) -> Path:
    """Write `index.json` for the finished shards of a folder: counts, checksums, where every member lies.

    `extra` is stored beside them. Raises ShardError naming a shard that is torn, FileNotFoundError if there is none.
    """
    folder = Path(folder)
    paths = sorted(folder.glob("shard-*.tar"))
    if not paths:
        raise FileNotFoundError(f"{folder} has no finished shard (shard-000000.tar): render the data first")
    shards = []
    for path in paths:
        samples, end = _scan(path)
        size = path.stat().st_size
        if size != end + 2 * BLOCK:
            raise ShardError(f"{path} is truncated or torn after byte {end} of {size}: delete it and render it again")
        with open(path, "rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        entries = [{"key": key, "members": members} for key, members in samples.items()]
        shards.append({"name": path.name, "bytes": size, "sha256": checksum, "samples": entries})
    index = {"samples": sum(len(shard["samples"]) for shard in shards), **extra, "shards": shards}
    return write_whole(folder / "index.json", partial(Path.write_text, data=json.dumps(index, separators=(",", ":"))))


class Shards:
    """A folder of shards: how many samples, their `keys`, their captions and metadata, any member of any sample.

    verify=True reads everything once and checks the checksums. Safe in `DataLoader` workers. Raises FileNotFoundError
    without an index, ShardError naming the shard that is missing, truncated or changed, or what is wrong with the
    index, which must list a sample at least.
    """

    def __init__(self, folder: str | Path, verify: bool = False):
        self.folder = Path(folder)
        index_path = self.folder / "index.json"
        if not index_path.exists():
            raise FileNotFoundError(
                f"{index_path} is missing: render the data, or call shards.write_index on the folder"
            )
        try:
            self.index: dict[str, Any] = read_json(index_path, _Index, "delete it and call shards.write_index")
        except ReadingError as error:
            raise ShardError(f"{error} (it is to be an index of shards)") from error
        shards = self.index["shards"]
        for shard in shards:
            self._check(shard, verify)
        self.keys: list[str] = [sample["key"] for shard in shards for sample in shard["samples"]]
        if not self.keys:
            reasons = "; ".join(f"{key}: {reason}" for key, reason in [*self.index.get("skipped", {}).items()][:3])
            raise ShardError(f"{index_path} lists no sample{f' ({reasons})' if reasons else ''}: make the data again")
        if len(set(self.keys)) < len(self.keys):
            twice = next(key for key, times in Counter(self.keys).items() if times > 1)
            raise ShardError(f"{index_path} lists the sample {twice} twice: make the data again")
        self._starts = np.cumsum([0] + [len(shard["samples"]) for shard in shards]).tolist()
        self._files: dict[str, Any] = {}
        self._process = os.getpid()

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def fingerprint(self) -> str:
        """A short name of the data: shards with other bytes have another one."""
        checksums = "".join(shard["sha256"] for shard in self.index["shards"])
        return short_name(checksums)

    def metadata(self, index: int, kind: Any = dict[str, Any]) -> dict[str, Any]:
        """The metadata of a sample, without decoding its pictures; kind: what they must hold (`read_value`)."""
        return self.json(index, LAST_MEMBER, kind)

    def caption(self, index: int) -> str:
        """The caption of a sample."""
        try:
            return self.member(index, "txt").decode()
        except UnicodeDecodeError as error:
            raise self.damaged(index, f"txt: {error}") from error

    def json(self, index: int, name: str, kind: Any = Any) -> Any:
        """A member that holds JSON, as `kind` (`read_value`). Raises ShardError naming the sample and the key."""
        try:
            return parse_json(self.member(index, name), name, kind, "")
        except ReadingError as error:
            raise self.damaged(index, str(error).removesuffix(": ")) from error

    def picture_names(self, index: int) -> list[str]:
        """The members of a sample that are pictures, in their order. Raises ShardError that names a missing one."""
        names = self._locate(index)[1]["members"]
        names = sorted(filter(PICTURE.fullmatch, names), key=_number)
        for place, name in enumerate(names):
            if _number(name) != place:  # or all that follow would go by the place of another one
                raise self.damaged(index, f"{name} follows without number {place}, which is missing")
        return names

    def pictures(self, index: int, chosen: Sequence[int] | None = None) -> UInt8[np.ndarray, "pictures height width c"]:
        """The chosen pictures of a sample (all by default), in this order.

        Raises ValueError where there is no such picture, ShardError.
        """
        names = self.picture_names(index)
        chosen = range(len(names)) if chosen is None else [int(number) for number in chosen]
        if any(not -len(names) <= number < len(names) for number in chosen):
            raise ValueError(f"sample {self.keys[index]} has views 0 to {len(names) - 1}, not {list(chosen)}")
        try:
            return np.stack([_decode(self.member(index, names[number])) for number in chosen])
        except (ValueError, cv2.error) as error:
            raise self.damaged(index, error) from error

    def member(self, index: int, name: str) -> bytes:
        """The bytes of one member of a sample. Raises IndexError where there is no such sample, ShardError."""
        shard, sample = self._locate(index)
        if name not in sample["members"]:
            raise self.damaged(index, f"it has no {name}")
        return self._bytes(shard["name"], *sample["members"][name])

    def damaged(self, index: int, reason: Any) -> ShardError:
        """The error that names a sample and what to do."""
        shard, sample = self._locate(index)
        where = f"{self.folder / shard['name']}, sample {sample['key']}"
        return ShardError(f"{where} is damaged ({reason}): delete the shard and make it again")

    def _locate(self, index: int) -> tuple[dict, dict]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.folder} has {len(self)} samples, there is no sample {index}")
        index %= len(self)
        number = bisect.bisect_right(self._starts, index) - 1
        shard = self.index["shards"][number]
        return shard, shard["samples"][index - self._starts[number]]

    def _bytes(self, name: str, offset: int, size: int) -> bytes:
        if self._process != os.getpid():  # a forked worker must not share file positions with its parent
            self._files = {}
            self._process = os.getpid()
        if name not in self._files:
            if len(self._files) >= 64:
                self._files.pop(next(iter(self._files))).close()
            self._files[name] = open(self.folder / name, "rb", buffering=0)  # noqa: SIM115
        file = self._files[name]
        data = os.pread(file.fileno(), size, offset)  # threads share the file, so no position in it
        if len(data) != size:
            raise ShardError(f"{self.folder / name} is truncated: delete it and render it again")
        return data

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_files": {}}

    def _check(self, shard: dict, verify: bool) -> None:
        path = self.folder / shard["name"]
        index = self.folder / "index.json"
        if not SHARD.fullmatch(shard["name"]):  # a link to another disk is its owner's doing, a path in an index is not
            raise ShardError(f"{index}: {shown(shard['name'])} is no shard of its folder: make the data again")
        try:
            places = [place for sample in shard["samples"] for place in sample["members"].values()]
            right = all(KEY.fullmatch(sample["key"]) for sample in shard["samples"]) and all(
                type(offset) is type(size) is int and offset >= 0 and size >= 0 and offset + size <= shard["bytes"]
                for offset, size in places
            )
        except (TypeError, ValueError, KeyError, AttributeError):
            right = False
        if not right:
            raise ShardError(f"{index}: samples of {path.name}: delete it and call shards.write_index")
        if not path.exists():
            raise ShardError(f"{path} is missing, but the index lists it: render it again or call shards.write_index")
        size = path.stat().st_size
        if size != shard["bytes"]:
            what = "truncated" if size < shard["bytes"] else "longer than the index says"
            raise ShardError(f"{path} is {what} ({size} of {shard['bytes']} bytes): delete it and render it again")
        if verify:
            with open(path, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != shard["sha256"]:
                    raise ShardError(f"{path} does not match its checksum: delete it and render it again")


class MultiviewShards(Shards, Sequence):
    """Objects seen from V cameras as a map-style dataset: `[i]`, and `.read(i, views)` for some views only."""

    def __getitem__(self, index: int) -> MultiviewSample:
        return self.read(index)

    def read(self, index: int, views: Sequence[int] | None = None) -> MultiviewSample:
        """Sample `index` with the given views (all by default), in this order.

        Raises IndexError where there is no such sample, ValueError for views that are not there, ShardError.
        """
        cam2world, intrinsics = self._cameras(index)
        pictures = self.pictures(index, views)
        if pictures.shape[-1] != 4:
            raise self.damaged(index, "its views have no alpha")
        if pictures.shape[1] != pictures.shape[2]:
            raise self.damaged(index, f"its views are {pictures.shape[2]} by {pictures.shape[1]} pixels, not square")
        chosen = list(range(len(pictures))) if views is None else [int(view) for view in views]
        return MultiviewSample(
            key=self.keys[index],
            rgba=torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous(),
            cam2world=cam2world[chosen],
            intrinsics=intrinsics[chosen],
            caption=self.caption(index),
            metadata=self.metadata(index),
        )

    def _cameras(self, index: int) -> tuple[Float[Tensor, "views 3 4"], Float[Tensor, "views 4"]]:
        """The cameras of a sample. Raises ShardError where they are none: rotation, finite numbers, one a view."""
        cameras = self.json(index, "cameras.json", Cameras)
        there = len(self.picture_names(index))
        try:
            cam2world, intrinsics = (torch.tensor(cameras[name]) for name in ("cam2world", "intrinsics"))
        except ValueError as error:
            raise self.damaged(index, f"cameras.json: {error}") from error
        if there != (wanted := len(cam2world)):
            raise self.damaged(index, f"view {there} is missing: it has {wanted} cameras and {there} views")
        for name, found, shape in (("cam2world", cam2world, (there, 3, 4)), ("intrinsics", intrinsics, (there, 4))):
            if tuple(found.shape) != shape:
                raise self.damaged(index, f"cameras.json: {name} has the shape {tuple(found.shape)}, not {shape}")
            if not found.isfinite().all():
                raise self.damaged(index, f"cameras.json: {name} is not finite")
        if not is_rotation(cam2world[..., :3]).all():
            raise self.damaged(index, "cameras.json: cam2world holds matrices that are no rotations")
        if not (intrinsics[:, :2] > 0).all():
            raise self.damaged(index, "cameras.json: intrinsics: the focal lengths fx, fy must be above 0")
        return cam2world, intrinsics


class VideoShards(Shards, Sequence):
    """Videos with captions as a map-style dataset, each a `VideoSample`."""

    def __getitem__(self, index: int) -> VideoSample:
        frames = torch.from_numpy(self.pictures(index)).permute(0, 3, 1, 2).contiguous()
        metadata = self.metadata(index)
        if frames.shape[1] != 3:
            raise self.damaged(index, f"its frames have {frames.shape[1]} channels, not 3")
        if len(frames) != (wanted := metadata.get("frames", len(frames))):
            raise self.damaged(index, f"frame {len(frames)} is missing: {wanted} frames were stored")
        return VideoSample(self.keys[index], frames, self.caption(index), metadata)


def last_members(path: str | Path) -> list[bytes]:
    """The last member, `KEY.json`, of every sample in a shard, finished or not."""
    with open(path, "rb") as file:
        return [
            os.pread(file.fileno(), size, offset)
            for offset, size in (m[LAST_MEMBER] for m in _scan(Path(path))[0].values())
        ]


def _scan(path: Path) -> tuple[dict[str, dict[str, tuple[int, int]]], int]:
    """The whole samples of a shard, {key: {member: (offset, size)}}, and the byte at which the last of them ends."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    current: dict[str, tuple[int, int]] = {}  # of the sample that is being read
    end = position = 0
    length = path.stat().st_size
    with open(path, "rb") as file:
        while position + BLOCK <= length:
            file.seek(position)
            try:
                header = tarfile.TarInfo.frombuf(file.read(BLOCK), "utf-8", "strict")
            except tarfile.HeaderError:  # zero blocks at the end of the archive, or a torn header
                break
            offset = position + BLOCK
            position = offset + -(-header.size // BLOCK) * BLOCK
            if position > length:
                break
            key, _, name = header.name.partition(".")
            if header.type == tarfile.XHDTYPE and not LONG_NAME.search(file.read(header.size)):
                continue  # Python's and WebDataset's archives keep a file's time so
            if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or header.size < 0 or not KEY.fullmatch(key):
                what = f"{shown(header.name)}, which is no file of a sample (KEY.NAME, 100 letters at most)"
                raise ShardError(f"{path} holds {what}: delete it and make it again")
            if key in samples:
                raise ShardError(f"{path} holds the sample {key} twice: delete it and make it again")
            if name in current:
                raise ShardError(f"{path} holds {header.name} twice: delete it and make it again")
            current[name] = (offset, header.size)
            if name == LAST_MEMBER:
                samples[key] = current
                current = {}
                end = position
    return samples, end


def _tar_member(name: str, content: bytes) -> bytes:
    header = tarfile.TarInfo(name)  # time, user and group are 0
    header.size = len(content)
    header.mode = 0o644
    return header.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % BLOCK)


def _number(name: str) -> int:
    return int(PICTURE.fullmatch(name)[1])


def _exact(numbers: Tensor) -> list:
    """float32 numbers as nested lists with 9 significant digits: enough to get the same float32 back."""
    numbers = np.asarray(numbers, np.float32)
    return np.array([float(f"{number:.9g}") for number in numbers.flat]).reshape(numbers.shape).tolist()


def _encode(picture: UInt8[np.ndarray, "height width channels"], suffix: str, *options: int) -> bytes:
    swapped = cv2.cvtColor(picture, cv2.COLOR_RGBA2BGRA if picture.shape[-1] == 4 else cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(suffix, swapped, options)
    if not done:
        raise ValueError(f"a picture of shape {picture.shape} and type {picture.dtype} cannot be written as {suffix}")
    return data.tobytes()


def _decode(data: bytes) -> UInt8[np.ndarray, "height width channels"]:
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None or picture.ndim != 3 or picture.dtype != np.uint8:
        raise ValueError("a picture is neither an RGBA PNG nor an RGB JPEG, of 8 bits a channel")
    return cv2.cvtColor(picture, cv2.COLOR_BGRA2RGBA if picture.shape[2] == 4 else cv2.COLOR_BGR2RGB)
