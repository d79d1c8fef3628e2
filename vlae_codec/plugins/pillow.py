"""Pillow reads and writes .vlae files once this module is imported.

>>> import io
>>> from PIL import Image
>>> import vlae_codec.plugins.pillow
>>> file = io.BytesIO()
>>> image = Image.linear_gradient("L").resize((32, 32))
>>> image.save(file, "VLAE")
>>> Image.open(file).tobytes() == image.tobytes()
True
"""

from __future__ import annotations

from typing import IO, Any

from PIL import Image, ImageFile

from vlae_codec.errors import UnsupportedImage, VlaeError
from vlae_codec.formats import header as container
from vlae_codec.formats import single as api
from vlae_codec.formats.header import FileKind
from vlae_codec.images.metadata import KEPT, restore_metadata
from vlae_codec.registry import DEFAULT_MODEL, Model, load_model

FORMAT = "VLAE"


class PillowError(VlaeError, OSError):
    """What Pillow's callers expect of a file that cannot be read or written: an OSError."""


class VlaeImageFile(ImageFile.ImageFile):
    """The image in a .vlae file; its pixels are decoded when they are first needed.

    Raises
    ------
    PillowError
        On opening, if the file is damaged or not of one image; on loading, if its model is not here or the checksum
        of the pixels is wrong. `PIL.ImageFile.LOAD_TRUNCATED_IMAGES` changes nothing.
    """

    format = FORMAT
    format_description = "Variational Lossy Autoencoder, lossless"
    #: The file, until its pixels are decoded.
    _data: bytes = b""
    #: What had to be decoded on opening.
    _image: Image.Image | None = None

    def _open(self) -> None:
        assert self.fp is not None
        data = self.fp.read()
        try:
            kind = container.kind_of(data)
            if kind in (FileKind.ARCHIVE, FileKind.SHORT_ARCHIVE, FileKind.LOSSY):
                raise UnsupportedImage(
                    f"the .vlae file is of the kind {kind.text}, expected a single image; use `vlae-codec decompress`"
                )
            header = None if kind is FileKind.STORED else container.read(data)[0]
            if header is None or header.source:
                # Its mode and what it says are in the source file alone, so that is made at once.
                image = api.decompress(data)
                self._size, self._mode = image.size, image.mode
                self.info.update(image.info)
                self._image = image
            else:
                restore_metadata(self, header.metadata)
                self._size = (header.width, header.height)
                fallback = header.file_kind is FileKind.FALLBACK
                self._mode = header.pillow_mode if fallback else header.pixel_kind.image_mode
        except VlaeError as error:
            raise PillowError(str(error)) from error
        # As on PNG files: what `metadata.metadata_of` looks for when the image is saved again.
        self.text = {key: value for key, value in self.info.items() if isinstance(value, str) and key not in KEPT}
        self._data = data

    def load(self) -> Any:
        """Decode the pixels, unless that has been done."""
        if self._data:
            try:
                image = self._image or api.decompress(self._data)
            except VlaeError as error:
                raise PillowError(str(error)) from error
            self._data, self._image = b"", None
            self.im, self.palette, self.readonly = image.im, image.palette, 0
            if self._exclusive_fp and self.fp is not None:
                self.fp.close()
        return super().load()


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(container.MAGIC)


def _save(image: Image.Image, fp: IO[bytes], filename: str | bytes) -> None:
    """Options: ``model`` (a name, a path or a `Model`), ``verify``, and the metadata of `KEPT`."""
    options: dict[str, Any] = image.encoderinfo
    model = options.get("model", DEFAULT_MODEL)
    info = image.info
    try:
        if not isinstance(model, Model):
            model = load_model(model)
        image.info = _with_options(info, options)
        data = api.compress(image, model, verify=options.get("verify", True))
    except VlaeError as error:
        raise PillowError(str(error)) from error
    finally:
        image.info = info
    fp.write(data)


def _with_options(info: dict[str | tuple[int, int], Any], options: dict[str, Any]) -> dict[str | tuple[int, int], Any]:
    """The image's own metadata, replaced by that among the save options; None and empty bytes remove an entry."""
    result = dict(info)
    for key in KEPT.keys() & options.keys():
        value = options[key]
        if isinstance(value, Image.Exif):
            value = value.tobytes()
        if not value and not isinstance(value, int):
            result.pop(key, None)
        elif isinstance(value, KEPT[key]):
            result[key] = value
        else:
            kinds = " or ".join(kind.__name__ for kind in KEPT[key])
            raise PillowError(f"save option {key} is of type {type(value).__name__}, expected {kinds}")
    return result


Image.register_open(FORMAT, VlaeImageFile, _accept)
Image.register_save(FORMAT, _save)
Image.register_extension(FORMAT, ".vlae")
Image.register_mime(FORMAT, "image/x-vlae")
