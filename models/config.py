"""The one configuration from which every network of the family is built."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields

from vlae_codec.errors import UnknownModel


@dataclass(frozen=True)
class VLAEConfig:
    """Shape of a VLAE: for 8-bit RGB photographs of any size, or for binary images of one size.

    The window is what the first layer of the decoder sees of a pixel's surroundings: ``window_rows`` rows above,
    ``window_left`` pixels to the left, and ``window_right`` pixels to the right in the rows above. It also sets the
    wavefront: pixels with equal ``x + skew * y`` are decoded together.

    Parameters
    ----------
    window_rows, window_left, window_right : int
        Size of the local window in pixels. ``window_right <= window_left``; all zero for a factorised decoder, whose
        pixels are independent given z.
    channels : int
        Width of the decoder's residual stream.
    blocks : int
        Number of residual blocks.
    spatial : bool
        True: each block is a 1x1 layer and a masked layer over five neighbours (VLAE's PixelCNN). False: two 1x1
        layers (NeLLoC), so that the first layer's window is all that the decoder sees.
    mixtures : int
        Logistic mixture components per colour channel.
    z_channels : int
        Channels of z; 0 makes a decoder without z.
    z_hidden : int
        Width of the prior; for binary images, also of the dense layers between them and z.
    z_width : int
        Width of the networks between photographs and z at a sixteenth and an eighth of the picture's side; at a quarter
        two thirds of it, at a half one third. 0 for binary images.
    z_groups : int
        Groups of channels of z that the prior gives one after the other, each knowing those before it; 0: every channel
        is a group.
    depthwise : bool
        Each block is a 1x1 layer to twice the channels, a depthwise masked layer over two rows above and two columns to
        both sides, and a 1x1 layer back.
    image_size : int
        0: RGB images of any size, each subpixel a mixture of logistics, z on a grid of patches. Otherwise the side of
        square binary images, each pixel a Bernoulli variable, with one vector z for each.
    image_width : int
        Width of the residual networks between whole images and z.
    prior : str
        ``autoregressive`` or ``gaussian`` (a standard normal).
    posterior : str
        ``diagonal``, or ``iaf``: an inverse autoregressive flow (Kingma et al. 2016), which cannot be coded with.
    """

    window_rows: int = 3
    window_left: int = 3
    window_right: int = 2
    channels: int = 64
    blocks: int = 6
    spatial: bool = True
    mixtures: int = 5
    z_channels: int = 8
    z_hidden: int = 128
    z_width: int = 96
    z_groups: int = 0
    depthwise: bool = False
    image_size: int = 0
    image_width: int = 32
    prior: str = "autoregressive"
    posterior: str = "diagonal"

    #: Side of the square of pixels that one position of z stands for.
    Z_PATCH = 16
    #: Rows and columns of the prior's window on the grid of z.
    Z_WINDOW = 2

    def __post_init__(self) -> None:
        limits = {
            "image_size": (0, 64),
            "image_width": (1, 256),
            "channels": (4, 256),
            "blocks": (0, 64),
            "mixtures": (1, 16),
            "z_channels": (0, 64),
            "z_hidden": (1, 512),
            "z_width": (3, 256),
            "z_groups": (0, 64),
        }
        reach = (0, self.image_size) if self.image_size else (1, 8)
        limits |= {"window_rows": reach, "window_left": reach, "window_right": reach}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise UnknownModel(f"model configuration: {name} is {value!r}, expected an integer in {low}..{high}")
        for name in ("spatial", "depthwise"):
            if type(getattr(self, name)) is not bool:
                raise UnknownModel(f"model configuration: {name} is {getattr(self, name)!r}, expected true or false")
        for name, choices in (("prior", ("autoregressive", "gaussian")), ("posterior", ("diagonal", "iaf"))):
            if getattr(self, name) not in choices:
                raise UnknownModel(
                    f"model configuration: {name} is {getattr(self, name)!r}, expected one of {', '.join(choices)}"
                )
        if self.image_size % 4:
            raise UnknownModel(f"model configuration: image_size is {self.image_size}, expected a multiple of 4")
        if self.image_size and self.spatial and not self.window_right:
            raise UnknownModel("model configuration: window_right is 0, expected at least 1 with spatial blocks")
        if not self.image_size and (self.prior, self.posterior) != ("autoregressive", "diagonal"):
            raise UnknownModel(
                f"model configuration: prior {self.prior} and posterior {self.posterior} need image_size above 0"
            )
        if not self.taps and not self.z_channels:
            raise UnknownModel(
                "model configuration: neither a window nor z, expected one of them to predict pixels from"
            )
        if self.window_right > self.window_left:
            raise UnknownModel(
                f"model configuration: window_right is {self.window_right}, "
                f"expected at most window_left = {self.window_left}"
            )
        groups = self.z_groups or self.z_channels
        if self.z_channels and (self.z_hidden % groups or self.z_channels % groups):
            raise UnknownModel(
                f"model configuration: z_hidden is {self.z_hidden} and z_channels {self.z_channels}, expected "
                f"multiples of the {groups} groups of z"
            )
        if self.depthwise and (self.image_size or not self.spatial or self.window_right < 2 or not self.blocks):
            raise UnknownModel(
                "model configuration: depthwise blocks are for photographs, spatial, with window_right of at least 2, "
                "and one at least"
            )

    @property
    def window_offsets(self) -> list[tuple[int, int]]:
        """Offsets (dy, dx) of the window's pixels, in raster order."""
        above = [
            (dy, dx) for dy in range(-self.window_rows, 0) for dx in range(-self.window_left, self.window_right + 1)
        ]
        return above + [(0, dx) for dx in range(-self.window_left, 0)]

    @property
    def skew(self) -> int:
        """Columns by which the wavefront lags behind in each row, see `vlae_codec.stages.wavefront`."""
        return self.window_right + 1

    @property
    def z_group(self) -> int:
        """How many channels of z the prior gives at once."""
        return self.z_channels // self.z_groups if self.z_groups else 1

    @property
    def reach(self) -> int:
        """How many rows up, and columns to either side, a masked layer of a block sees."""
        return 2 if self.depthwise else int(self.spatial)

    @property
    def inner(self) -> int:
        """Channels within a block, between its first layer and its last."""
        return 2 * self.channels if self.depthwise else self.channels

    @property
    def colours(self) -> int:
        """Channels of the images."""
        return 1 if self.image_size else 3

    @property
    def taps(self) -> int:
        """Inputs of the decoder's first layer: the window's subpixels, and the prediction where there is one."""
        return len(self.window_offsets) + (0 if self.image_size else 1)

    @property
    def outputs(self) -> int:
        """Number of likelihood parameters per pixel: a logit, or see `LAYOUT` in `models.likelihood`."""
        return 1 if self.image_size else 12 * self.mixtures

    def to_json(self) -> str:
        """The configuration as JSON text; what a model of its kind does not need is left out."""
        values = asdict(self)
        unused = [] if self.image_size else ["image_size", "image_width", "prior", "posterior"]
        if self.image_size or not self.z_channels:
            unused.append("z_width")
        unused += [name for name in ("z_groups", "depthwise") if not values[name]]
        for name in unused:
            del values[name]
        return json.dumps(values, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> VLAEConfig:
        """Read what `to_json` wrote; `UnknownModel` on anything else."""
        try:
            values = json.loads(text)
            known = {field.name for field in fields(cls)}
            if not isinstance(values, dict) or set(values) - known:
                raise ValueError(f"keys {sorted(values)!r}, expected some of {sorted(known)!r}")
        except (ValueError, TypeError) as error:
            raise UnknownModel(f"model configuration: {error}") from None
        return cls(**values)
