"""Make the golden files anew. Run this only when the format's version changes, and say so in CHANGELOG.md.

python tests/golden/make.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from conftest import binary_images, picture, smooth, vlae_file  # noqa: E402
from vlae_codec.models.config import VLAEConfig  # noqa: E402
from vlae_codec.models.training.export import measure_binary_ranges, measure_ranges, to_integers  # noqa: E402
from vlae_codec.models.vlae import VLAE  # noqa: E402

import vlae_codec  # noqa: E402
from vlae_codec.coding import adapt, photo  # noqa: E402
from vlae_codec.entropy.ans import Messages  # noqa: E402
from vlae_codec.formats import lossy, single  # noqa: E402
from vlae_codec.formats.archive_writer import archive_array  # noqa: E402
from vlae_codec.formats.source import compress_file  # noqa: E402
from vlae_codec.images import orientation  # noqa: E402
from vlae_codec.images.sets import Source  # noqa: E402
from vlae_codec.stages import StageKind  # noqa: E402

SHAPES = {
    "tiny": VLAEConfig(channels=8, blocks=2, mixtures=2, z_channels=4, z_groups=2, z_hidden=8, z_width=6,
                       depthwise=True),
    "tiny-pointwise": VLAEConfig(window_rows=2, window_left=2, window_right=1, channels=8, blocks=1, spatial=False,
                                 mixtures=3, z_channels=4, z_hidden=8, z_width=6),
    "tiny-binary": VLAEConfig(image_size=8, window_rows=2, window_left=2, window_right=1, channels=8, blocks=2,
                              z_channels=4, z_hidden=16, image_width=4),
    "tiny-binary-vae": VLAEConfig(image_size=8, window_rows=0, window_left=0, window_right=0, spatial=False, channels=8,
                                  blocks=1, z_channels=4, z_hidden=16, image_width=4, prior="gaussian"),
    "tiny-binary-no-z": VLAEConfig(image_size=8, window_rows=8, window_left=8, window_right=8, spatial=False,
                                   channels=8, blocks=1, z_channels=0),
    "tiny-no-z": VLAEConfig(window_right=3, channels=8, blocks=3, mixtures=1, z_channels=0),
}  # fmt: skip


def untrained(config: VLAEConfig) -> VLAE:
    """A model whose every layer does something: the trainer's initialisation leaves some at zero."""
    torch.manual_seed(1)
    model = VLAE(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def write_binary(name: str, model: VLAE, path: Path) -> None:
    """A model for binary images, an archive of an array and one of files, and a lossy file."""
    images = binary_images(300, 8)
    np.save(HERE / "binary.npy", images)
    path.write_bytes(to_integers(model, measure_binary_ranges(model, images)).to_bytes())
    loaded = vlae_codec.load_model(path, "cpu")
    # The chains of before, which list their batches (`-array`, `-listed`), are not written any more.
    (HERE / f"{name}-planned-array.vlae").write_bytes(archive_array(images, loaded, segment=120, embed=True))
    if name == "tiny-binary":
        (HERE / f"{name}-particles-array.vlae").write_bytes(archive_array(images[:100], loaded, particles=4))
    if model.config.z_channels:
        source = Source("array", 1, shape=images.shape)
        file = lossy.encode_images(images, loaded, source, [], fidelity=4.0)
        (HERE / f"{name}-lossy.vlae").write_bytes(file.to_bytes())
        np.save(HERE / f"{name}-drawn.npy", np.packbits(lossy.reconstruct(file, loaded, seed=7)))


def write_adapting(name: str, image: Image.Image, model: vlae_codec.Model) -> None:
    """A file of heads that learn, as if the picture were large enough for that."""
    with patch.object(adapt, "FEWEST", 1):
        (HERE / f"{name}-lake-adapting.vlae").write_bytes(vlae_file(image, StageKind.WITHOUT_Z, model))


def write_several(name: str, image: Image.Image, model: vlae_codec.Model) -> None:
    """A file of heads that learn in three messages of two lanes, as if the picture were large enough for that."""
    with patch.object(adapt, "FEWEST", 1), patch.object(photo, "message_for", lambda *_: Messages(3, 2)):
        (HERE / f"{name}-lake-several.vlae").write_bytes(vlae_file(image, StageKind.WITHOUT_Z, model))


def write_turned(name: str, image: Image.Image, model: vlae_codec.Model) -> None:
    """A file of a picture that is coded from its last column to its first."""
    turned = orientation.TRANSPOSED | orientation.ROWS_REVERSED
    (HERE / f"{name}-lake-turned.vlae").write_bytes(vlae_file(image, StageKind.WITHOUT_Z, model, turned))


def write_sources() -> None:
    """Image files, and what they are compressed to: a file of each form in which they are made again, or stored."""
    from images.corpus import CORPUS, deflated_elsewhere, grey

    folder = HERE / "sources"
    folder.mkdir(exist_ok=True)
    model = vlae_codec.load_model(HERE / "tiny.safetensors", "cpu")
    # A tiny model is worse than WebP; as everywhere, that it wins once is said, not measured.
    wins = single._fallback_may_win
    names = ["24-40.bmp", "tiles16x16-3-16.tif", "3.qoi", "pypng-rgb-8-interlaced.png", "imagecodecs-level6.png",
             "pypng-palette-4.png", "comment.gif"]  # fmt: skip
    sources = {name: CORPUS[name][0]() for name in names} | {"elsewhere.png": deflated_elsewhere(grey(8, 3))}
    for name, source in sources.items():
        single._fallback_may_win = (lambda *_: False) if name == "24-40.bmp" else wins
        (folder / name).write_bytes(source)
        (folder / f"{name}.vlae").write_bytes(compress_file(source, name, model))


def main() -> None:
    """Write the models, and files of each kind made with them."""
    with Image.open(HERE.parent.parent / "examples" / "lake.png") as image:
        part = image.crop((200, 150, 296, 246))
    part.save(HERE / "lake.png", optimize=True)
    rng = np.random.default_rng(0)
    crops = [smooth(rng, 64, 64) for _ in range(4)] + [picture("noise", 32, 32)]
    for name, config in SHAPES.items():
        model = untrained(config)
        path = HERE / f"{name}.safetensors"
        if config.image_size:
            write_binary(name, model, path)
            continue
        path.write_bytes(to_integers(model, measure_ranges(model, crops)).to_bytes())
        loaded = vlae_codec.load_model(path, "cpu")
        write_adapting(name, part, loaded)
        write_several(name, part, loaded)
        write_turned(name, part, loaded)
        stage_kinds = list(StageKind) if config.z_channels else [StageKind.WITHOUT_Z]
        for kind in ("smooth", "gaps", "grey"):
            image = Image.fromarray(picture(kind, 83, 50, seed=5))
            image.save(HERE / f"{kind}.png", optimize=True)
            for stage_kind in stage_kinds:
                (HERE / f"{name}-{kind}-{stage_kind.name.lower()}.vlae").write_bytes(
                    vlae_file(image, stage_kind, loaded)
                )
    for name in ("fast", "photo", "photo-global"):
        loaded = vlae_codec.load_model(name, "cpu")
        write_adapting(name, part, loaded)
        for stage_kind in StageKind if loaded.config.z_channels else [StageKind.WITHOUT_Z]:
            (HERE / f"{name}-lake-{stage_kind.name.lower()}.vlae").write_bytes(vlae_file(part, stage_kind, loaded))
        if loaded.config.z_channels:
            file = lossy.encode_photograph(part, loaded, "lake.png")
            (HERE / f"{name}-lake-lossy.vlae").write_bytes(file.to_bytes())
            drawn = Image.fromarray(lossy.reconstruct(file, loaded, seed=7)[0, 0])
            drawn.save(HERE / f"{name}-lake-drawn.png", optimize=True)
    flat = Image.fromarray(picture("flat", 83, 50, seed=5)).convert("P")
    flat.save(HERE / "palette.png", optimize=True)
    (HERE / "palette-fallback.vlae").write_bytes(vlae_codec.compress(flat))
    write_sources()


if __name__ == "__main__":
    main()
