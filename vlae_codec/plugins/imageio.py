"""imageio reads and writes .vlae files once this module is imported; so does Pillow, which does the reading.

>>> import numpy as np
>>> import imageio.v3 as iio
>>> import vlae_codec.plugins.imageio
>>> array = np.arange(32 * 32, dtype=np.uint8).reshape(32, 32)
>>> data = iio.imwrite("<bytes>", array, extension=".vlae")
>>> bool((iio.imread(data, extension=".vlae") == array).all())
True
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from types import EllipsisType
from typing import Any

import numpy as np
from imageio.config import FileExtension, PluginConfig, extension_list, known_extensions, known_plugins
from imageio.core.request import InitializationError, IOMode, Request
from imageio.core.v3_plugin_api import ImageProperties, PluginV3
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from vlae_codec.errors import UnsupportedImage
from vlae_codec.formats import header as container
from vlae_codec.formats import single as api
from vlae_codec.registry import DEFAULT_MODEL, Model, load_model

from . import pillow

SUFFIX = ".vlae"
#: The trailing dimensions of an array, by Pillow's mode of the image.
CHANNELS: dict[str, tuple[int, ...]] = {"L": (), "RGB": (3,), "RGBA": (4,)}
Index = int | EllipsisType | None


class VlaePlugin(PluginV3):
    """One image as an array of uint8, shape (H, W), (H, W, 3) or (H, W, 4).

    A .vlae file holds one image, so ``index`` is 0, None, or ... for a batch of one. Files of other modes, such as
    those with a palette, are refused: read them with Pillow.
    """

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        if request.mode.io_mode is IOMode.read:
            if request.firstbytes[: len(container.MAGIC)] != container.MAGIC:
                raise InitializationError("not a .vlae file")
        elif request.extension != SUFFIX:
            raise InitializationError(f"the extension is {request.extension}, expected {SUFFIX}")

    @cached_property
    def _image(self) -> Image.Image:
        # Not in __init__, whose errors imageio replaces by one that does not say what is wrong.
        image = Image.open(self.request.get_file(), formats=[pillow.FORMAT])
        if image.mode not in CHANNELS:
            raise UnsupportedImage(f"image of mode {image.mode}, expected {', '.join(CHANNELS)}; read it with Pillow")
        return image

    def read(self, *, index: Index = 0) -> NDArray[np.uint8]:
        """The image, or a batch of one where ``index`` is an ellipsis; `VlaeError` if the file is damaged."""
        _check_index(index)
        array = np.array(self._image)
        return array[None] if index is ... else array

    def iter(self) -> Iterator[NDArray[np.uint8]]:
        """The one image."""
        yield self.read()

    def write(
        self,
        ndimage: ArrayLike | list[ArrayLike],
        *,
        model: str | os.PathLike[str] | Model = DEFAULT_MODEL,
        verify: bool = True,
    ) -> bytes | None:
        """Compress one image; see `vlae_codec.compress` for the parameters and errors."""
        if isinstance(ndimage, (list, tuple)):
            raise UnsupportedImage(
                f"a {type(ndimage).__name__} of {len(ndimage)}, expected one array: (H, W[, 3 or 4])"
            )
        model = model if isinstance(model, Model) else load_model(model)
        data = api.compress(np.asarray(ndimage), model, verify=verify)
        self.request.get_file().write(data)
        return data if self.request.raw_uri == "<bytes>" else None

    def properties(self, index: Index = 0) -> ImageProperties:
        """Shape and dtype, without decoding."""
        _check_index(index)
        image = self._image
        shape = (image.height, image.width, *CHANNELS[image.mode])
        if index is ...:
            return ImageProperties((1, *shape), np.dtype(np.uint8), n_images=1, is_batch=True)
        return ImageProperties(shape, np.dtype(np.uint8))

    def metadata(self, index: Index = 0, exclude_applied: bool = True) -> dict[str, Any]:
        """What Pillow has as ``Image.info``: ICC profile, EXIF and so on; none of it is applied by `read`."""
        _check_index(index)
        return {str(key): value for key, value in self._image.info.items()}


def _check_index(index: Index) -> None:
    if index not in (0, None, ...):
        raise ValueError(f"index {index}, expected 0, None or ...: a .vlae file holds one image")


known_plugins["vlae"] = PluginConfig(name="vlae", class_name=VlaePlugin.__name__, module_name=__name__)
_extension = FileExtension(extension=SUFFIX, priority=["vlae"], name="vlae-codec")
extension_list.append(_extension)
known_extensions[SUFFIX] = [_extension]
