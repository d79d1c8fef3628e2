"""Models by name, by path, and by the id that a file holds."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from vlae_codec.errors import UnknownModel

if TYPE_CHECKING:
    from vlae_codec.coding.binary import BinaryCoder
    from vlae_codec.coding.photo import PhotoCoder
    from vlae_codec.models.config import VLAEConfig
    from vlae_codec.models.exact.integer import IntegerModel

#: The model that compresses when none is named.
DEFAULT_MODEL = "photo"
#: Models for photographs by effort, and whether they learn from them: the more, the smaller and the slower.
EFFORTS = {1: ("fast", False), 2: ("photo", True)}
#: The model whose z tells of a photograph, for lossy codes when none is named.
LOSSY_MODEL = "photo-global"
#: Names a folder of more models, searched after the shipped ones.
FOLDER_VARIABLE = "VLAE_CODEC_MODELS"
SUFFIX = ".safetensors"
#: Largest model file that is read, in bytes.
MAX_MODEL_BYTES = 1 << 28


@dataclass(frozen=True)
class Model:
    """A model that is loaded once and used for many images; its networks are made ready when they are first needed.

    Attributes
    ----------
    name : str
        The file's name without its suffix.
    id : bytes
        What files made with this model hold, see `models.exact.integer.model_id`.
    integers : IntegerModel
    data : bytes
        The model file.
    device : str
        Where the networks run.
    adapt : bool
        Whether the networks learn from the photographs that they compress, see `coding.adapt`.
    """

    name: str
    id: bytes
    integers: IntegerModel = field(repr=False)
    data: bytes = field(repr=False)
    device: str = "cpu"
    adapt: bool = True

    @property
    def config(self) -> VLAEConfig:
        """The networks' shape."""
        return self.integers.config

    @functools.cached_property
    def coder(self) -> PhotoCoder | BinaryCoder:
        """For photographs, or for binary images of one size."""
        if self.config.image_size:
            from vlae_codec.coding.binary import BinaryCoder

            return BinaryCoder(self.integers, self.device)
        from vlae_codec.coding.photo import PhotoCoder

        return PhotoCoder(self.integers, self.device)

    @property
    def photographs(self) -> PhotoCoder:
        """The coder of a model for photographs; `UnknownModel` for another."""
        size = self.config.image_size
        if size:
            raise UnknownModel(
                f"model {self.name} is for binary images of {size} x {size} pixels in archives, expected one for "
                "photographs"
            )
        return cast("PhotoCoder", self.coder)

    @property
    def binary(self) -> BinaryCoder:
        """The coder of a model for binary images; `UnknownModel` for another."""
        if not self.config.image_size:
            raise UnknownModel(f"model {self.name} is for photographs, expected one for binary images")
        return cast("BinaryCoder", self.coder)

    @property
    def window(self) -> dict[str, int]:
        """The decoder's local window in pixels."""
        return window_of(self.config)


def window_of(config: VLAEConfig) -> dict[str, int]:
    """A decoder's local window in pixels."""
    return {"rows": config.window_rows, "left": config.window_left, "right": config.window_right}


@dataclass(frozen=True)
class Models:
    """Which model codes files, and where it runs.

    Attributes
    ----------
    name : str, optional
        Name or path; None for those that made the files.
    device : str
    adapt : bool
        See `Model`.
    data : bytes, optional
        The file of the model that is named, in place of what that name or path leads to here.
    """

    name: str | None = None
    device: str = "auto"
    adapt: bool = True
    data: bytes | None = field(default=None, repr=False)

    def load(self) -> Model | None:
        """The model, if one is named; raises as `load_model` does."""
        if self.name and self.data is not None:
            return _load_bytes(self.data, Path(self.name).stem, choose_device(self.device), self.adapt)
        return load_model(self.name, self.device, self.adapt) if self.name else None

    def find(self, wanted: bytes) -> Model:
        """The model with an id; `UnknownModel` if it is not here, or another is named."""
        model = self.load()
        if model is not None and model.id != wanted:
            raise UnknownModel(f"the file was made with model {wanted.hex()}, not with {model.name} ({model.id.hex()})")
        return model or find_model(wanted, self.device)


def folders() -> list[Path]:
    """Where models are looked for: the shipped ones, then the user's."""
    found = [Path(__file__).parent / "models" / "weights", Path(__file__).parent.parent / "models" / "weights"]
    extra = os.environ.get(FOLDER_VARIABLE)
    return [folder for folder in [*found, *([Path(extra)] if extra else [])] if folder.is_dir()]


def _files() -> Iterator[Path]:
    for folder in folders():
        # The one that made most files first, so that to find a model by its id seldom reads the others.
        yield from sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: (path.stem != DEFAULT_MODEL, path))


def choose_device(device: str) -> str:
    """A torch device from ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; `UnknownModel` if this machine lacks it."""
    if device == "cpu" or (device == "auto" and not _has_gpu()):
        # torch is not loaded only to hear that it finds none: that takes a second, and decoding needs no torch.
        return "cpu"
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        available = chosen.type == "cpu" or (chosen.type == "cuda" and (chosen.index or 0) < torch.cuda.device_count())
    except RuntimeError:
        available = False
    if not available:
        raise UnknownModel(f"device {device!r} is not available here; use auto, cpu, cuda or cuda:N")
    return device


def _has_gpu() -> bool:
    """Whether there may be a GPU that torch can use; on Linux its driver's device files tell."""
    return os.name == "nt" or any(map(os.path.exists, ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")))


def load_model(name: str | os.PathLike[str] = DEFAULT_MODEL, device: str = "auto", adapt: bool = True) -> Model:
    """Load a model by the name of a shipped one, or by the path of a model file; ``adapt`` as in `Model`.

    Raises
    ------
    UnknownModel
        If there is none of that name, or the file is no model.
    UnsafeModel
        If its sums could be inexact.
    """
    name = os.fspath(name)
    named = [path for path in _files() if path.stem == name]
    path = named[0] if named else Path(name)
    if not path.is_file():
        known = ", ".join(sorted({p.stem for p in _files()})) or "none"
        raise UnknownModel(f"no model {name!r}: not a file, and the known names are {known}")
    return _load(path.resolve(), path.stat().st_mtime_ns, choose_device(device), adapt)


def find_model(wanted: bytes, device: str = "auto") -> Model:
    """The known model with an id; `UnknownModel` if there is none."""
    for path in _files():
        if _id_of(path, path.stat().st_mtime_ns) == wanted:
            return _load(path.resolve(), path.stat().st_mtime_ns, choose_device(device), True)
    raise UnknownModel(
        f"the file was made with model {wanted.hex()}, which is not here; name it with --model, "
        f"or put it into the folder that {FOLDER_VARIABLE} names"
    )


def _read(path: Path) -> bytes:
    if path.stat().st_size > MAX_MODEL_BYTES:
        raise UnknownModel(f"{path} has {path.stat().st_size} bytes, at most {MAX_MODEL_BYTES} are read as a model")
    return path.read_bytes()


@functools.lru_cache(maxsize=64)
def _id_of(path: Path, changed: int) -> bytes:
    return model_id(_read(path))


@functools.lru_cache(maxsize=4)
def _load(path: Path, changed: int, device: str, adapt: bool) -> Model:
    return dataclasses.replace(model_from_bytes(_read(path), path.stem, device), adapt=adapt)


@functools.lru_cache(maxsize=4)
def _load_bytes(data: bytes, name: str, device: str, adapt: bool) -> Model:
    return dataclasses.replace(model_from_bytes(data, name, device), adapt=adapt)


def model_id(data: bytes) -> bytes:
    """The id of a model file: the first 8 bytes of its SHA-256."""
    return hashlib.sha256(data).digest()[:8]


def model_from_bytes(data: bytes, name: str, device: str = "auto") -> Model:
    """A model from the bytes of its file; raises as `load_model` does."""
    from vlae_codec.models.exact.integer import IntegerModel

    return Model(name, model_id(data), IntegerModel.from_bytes(data), data, choose_device(device))


def find_config(wanted: bytes) -> tuple[str, VLAEConfig] | None:
    """The name and the configuration of the known model with an id, without loading it; None if there is none."""
    from vlae_codec.models.exact.header import read_header

    for path in _files():
        if _id_of(path, path.stat().st_mtime_ns) == wanted:
            return path.stem, read_header(_read(path))[1]
    return None
