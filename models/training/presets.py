"""Configurations by name: for photographs, for binary images, and what the paper holds the latter against."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from vlae_codec.models.config import VLAEConfig

from vlae_codec.errors import UnknownModel

from .loop import Schedule


@dataclass(frozen=True)
class Preset:
    """A configuration, the schedule that suits it, and one line that says what it is."""

    about: str
    config: VLAEConfig
    schedule: Schedule = field(default_factory=Schedule)


_VLAE = VLAEConfig(
    image_size=28, channels=16, blocks=4, z_channels=32, z_hidden=256, image_width=24,
)  # fmt: skip
_SCHEDULE = Schedule(
    steps=16000, decay=12000, batch=64, rate=4e-3, matrix_rate=4e-3, free_bits=0.0, kl_warmup=3000, bfloat16=False
)


def _vlae(about: str, schedule: dict[str, Any] | None = None, **config: Any) -> Preset:
    changed = dataclasses.replace(_SCHEDULE, **(schedule or {}))
    return Preset(about, dataclasses.replace(_VLAE, **config), changed)


def _window(reach: int, **config: Any) -> dict[str, Any]:
    """A decoder whose window reaches so far up, left and right; of 1x1 layers behind it unless said otherwise."""
    return {"window_rows": reach, "window_left": reach, "window_right": reach, "spatial": False, **config}


PRESETS = {
    "photo": Preset(
        "photographs: z on a grid, local PixelCNN, mixture of logistics",
        VLAEConfig(blocks=7, depthwise=True, z_channels=32, z_groups=4),
        Schedule(batch=4, crop=96, rate=5e-3, free_bits=0.0, distortion=8e-4, z_dropout=0.05),
    ),
    "fast": Preset(
        "photographs: a small decoder without z",
        VLAEConfig(channels=32, blocks=4, depthwise=True, mixtures=3, z_channels=0),
        Schedule(batch=4, crop=96, rate=5e-3),
    ),
    "vlae": _vlae("28x28 binary images: AF prior, local PixelCNN, KL annealing"),
    "vae": _vlae("the standard VAE: factorised decoder, Gaussian prior", prior="gaussian", **_window(0)),
    "iaf-vae": _vlae("factorised decoder, IAF posterior", prior="gaussian", posterior="iaf", **_window(0)),
    "af-vae": _vlae("factorised decoder, AF prior", **_window(0)),
    "gaussian-prior": _vlae("VLAE with a Gaussian prior", prior="gaussian"),
    "window-1": _vlae("AF prior, decoder that sees 1 pixel up, left and right", **_window(1)),
    "window-2": _vlae("AF prior, decoder that sees 2 pixels up, left and right", **_window(2)),
    "window-4": _vlae("AF prior, decoder that sees 4 pixels up, left and right", **_window(4)),
    "full-window": _vlae("AF prior, decoder that sees all pixels before its own", **_window(28)),
    "full-vlae": _vlae(
        "AF prior, VLAE's decoder with all pixels before its own in its window", **_window(28, spatial=True)
    ),
    "pixelcnn": _vlae("unconditional PixelCNN: no z", z_channels=0),
    "plain": _vlae("VLAE trained on the ELBO alone, without KL annealing", {"kl_warmup": 0}),
    "free-bits": _vlae("VLAE with hard free bits in place of KL annealing", {"free_bits": 0.05, "kl_warmup": 0}),
    "soft-free-bits": _vlae(
        "VLAE with the paper's soft free bits in place of KL annealing",
        {"soft_free_bits": True, "free_bits": 0.25, "kl_warmup": 0},
    ),
    "word-dropout": _vlae("VLAE with a quarter of the decoder's pixels dropped", {"word_dropout": 0.25}),
}


def preset(name: str) -> Preset:
    """The preset of a name; `UnknownModel` lists the names if there is none."""
    if name not in PRESETS:
        raise UnknownModel(f"no configuration {name!r}; the names are {', '.join(PRESETS)}")
    return PRESETS[name]
