"""Code tiny pictures with every compiled loop, for a run in which every index is checked.

NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=$(mktemp -d) python tests/coding/bounds.py
"""

from __future__ import annotations

import io
import os
import sys
import zlib
from pathlib import Path
from unittest.mock import patch

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
os.environ["VLAE_CODEC_MODELS"] = str(HERE.parent / "golden")

from conftest import binary_images, picture, vlae_file  # noqa: E402

from vlae_codec import Archive, archive_array, decompress, load_model  # noqa: E402
from vlae_codec.coding import adapt  # noqa: E402
from vlae_codec.formats import lossy  # noqa: E402
from vlae_codec.images import rasters  # noqa: E402
from vlae_codec.images.rasters.deflate import deflate  # noqa: E402
from vlae_codec.images.rasters.png import Parameters  # noqa: E402
from vlae_codec.stages import StageKind  # noqa: E402


def main() -> None:
    """Raises IndexError where a loop leaves its arrays."""
    for kind, (height, width) in (("smooth", (20, 9)), ("grey", (17, 1)), ("gaps", (1, 5))):
        pixels = picture(kind, height, width)
        for name in ("tiny", "tiny-pointwise", "tiny-no-z"):
            model = load_model(name, "cpu")
            for stage_kind in StageKind if name != "tiny-no-z" else [StageKind.WITHOUT_Z]:
                data = vlae_file(Image.fromarray(pixels), stage_kind, model)
                assert np.array_equal(np.asarray(decompress(data, model)), pixels)
            if name != "tiny-no-z":
                lossy.reconstruct(lossy.encode_photograph(Image.fromarray(pixels), model, ""), model)
            with patch.object(adapt, "FEWEST", 1):
                data = vlae_file(Image.fromarray(pixels), StageKind.WITHOUT_Z, model)
            assert np.array_equal(np.asarray(decompress(data, model)), pixels)
    for name in ("tiny-binary", "tiny-binary-vae", "tiny-binary-no-z"):
        model, images = load_model(name, "cpu"), binary_images(3, 8)
        assert np.array_equal(Archive(io.BytesIO(archive_array(images, model)), model).array(), images)
    for fmt in ("PNG", "QOI"):
        buffer = io.BytesIO()
        Image.fromarray(picture("smooth", 12, 9)).save(buffer, fmt)
        found = rasters.find(buffer.getvalue())
        assert found is not None
        rasters.rebuild(found.form, found.recipe, found.values, found.digest)
    data = picture("smooth", 12, 19).tobytes() + bytes(400)
    for level, strategy in ((1, 0), (6, 1), (9, 0), (6, 2), (6, 3), (6, 4)):
        made = deflate(data, Parameters(level, strategy, 1, 9))
        assert zlib.decompress(made, -15) == data


if __name__ == "__main__":
    main()
