"""The same bytes from every instruction set, number of threads and layout of batches, each in a process of its own."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import EXAMPLES, GOLDEN

from vlae_codec.files import keep_compiled

# Compress with several models and sizes of bands, decompress what this process made and what the first process made,
# and the same for an archive of binary images. One process does all, as most of its time is its start.
SCRIPT = """
import io, pickle, sys
import numpy as np
from PIL import Image
import vlae_codec
from vlae_codec.formats import single
from vlae_codec.models.exact import bands, binary

tests, image_path, models, sizes, known = sys.argv[1:]
sys.path.insert(0, tests)
from conftest import binary_images

# Also by a tiny model, which is worse than WebP is.
single._fallback_may_win, single._model_may_win = lambda look, size: False, lambda look: True
known = pickle.load(open(known, "rb")) if known else {}
image = Image.open(image_path).convert("RGB").crop((100, 100, 320, 310))
made = {}
for name in models.split():
    model = vlae_codec.load_model(name, "cpu")
    for size in map(int, sizes.split()):
        bands.BAND_PIXELS = size
        made[name, size] = vlae_codec.compress(image, model, verify=False)
        for data in [made[name, size], *(data for key, data in known.items() if key[0] == name)]:
            assert vlae_codec.decompress(data, model).tobytes() == image.tobytes()
binary.CHUNK = 7 if known else 32
model, images = vlae_codec.load_model("static-mnist", "cpu"), binary_images(90, 28)
# The first stages have one draw of each z.
made["archive", 0] = vlae_codec.archive_array(images, model, verify=False, particles=4)
for data in [made["archive", 0], *(data for key, data in known.items() if key[0] == "archive")]:
    assert np.array_equal(vlae_codec.Archive(io.BytesIO(data), model).array(), images)
pickle.dump(made, sys.stdout.buffer)
"""

SETTINGS = [
    {},
    {"ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
    {"ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "OPENBLAS_CORETYPE": "Haswell"},
    {"ONEDNN_MAX_CPU_ISA": "SSE41", "NUMBA_CPU_NAME": "generic", "OPENBLAS_CORETYPE": "Prescott"},
]
#: Depthwise layers without z and with it, and masked ones.
MODELS = ["photo", "photo-global", "tiny-no-z"]
BANDS = [8192, 500]

Made = dict[tuple[str, int], bytes]


def run(settings: dict[str, str], sizes: list[int], known: str) -> Made:
    # Compiled loops are kept where commands keep them, apart by instruction set.
    keep_compiled()
    environment = os.environ | settings | {"VLAE_CODEC_MODELS": str(GOLDEN)}
    arguments = [str(GOLDEN.parent), str(EXAMPLES / "lake.png"), " ".join(MODELS), " ".join(map(str, sizes)), known]
    command = [sys.executable, "-c", SCRIPT, *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr.decode()
    return pickle.loads(result.stdout)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process made."""
    path = tmp_path_factory.mktemp("reference") / "made"
    path.write_bytes(pickle.dumps(run({}, BANDS[:1], "")))
    return path


@pytest.fixture(scope="module", params=SETTINGS[1:], ids=lambda s: " ".join(f"{k}={v}" for k, v in s.items()))
def made(request: pytest.FixtureRequest, reference: Path) -> Made:
    """What a process of other settings made, which decoded what the first one made."""
    return run(request.param, BANDS, str(reference))


def read(reference: Path) -> Made:
    return pickle.loads(reference.read_bytes())


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("band", BANDS)
def test_the_same_bytes_everywhere(model: str, band: int, made: Made, reference: Path) -> None:
    assert made[model, band] == read(reference)[model, BANDS[0]]


def test_the_same_archive_everywhere(made: Made, reference: Path) -> None:
    assert made["archive", 0] == read(reference)["archive", 0]


@pytest.mark.parametrize("model", MODELS)
def test_the_test_picture_is_coded_by_the_model(model: str, reference: Path) -> None:
    import vlae_codec

    assert vlae_codec.info(read(reference)[model, BANDS[0]])["mode"].startswith("vlae")


def test_no_loop_leaves_its_arrays() -> None:
    """As plain Python, where an index beyond an array's end is an error; CI runs the same compiled and checked."""
    script = Path(__file__).parent / "bounds.py"
    subprocess.run([sys.executable, script], env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, check=True)


def test_compiled_loops_are_not_taken_from_an_older_release() -> None:
    from vlae_codec.models import plan
    from vlae_codec.models.exact import bands, loops, products, steps

    from vlae_codec.coding import adapt, gradient, parts, sample, wavefront
    from vlae_codec.entropy import ans, cdf, codecs, kernels
    from vlae_codec.images.rasters import blocks, deflate

    records = str([record._fields for record in (ans.Stack, ans.Stacks, codecs.Gaussians, codecs.Intervals)]).encode()
    for module, fields, sources in (
        (kernels, records, (cdf,)), (loops, b"", (products,)), (bands, b"", (loops,)), (steps, b"", (loops,)),
        (wavefront, records, (cdf, kernels, loops, steps)),
        (sample, records, (cdf, loops, steps, wavefront)),
        (parts, b"", (products,)),
        (gradient, b"", (cdf, loops, plan, wavefront)),
        (adapt, records, (cdf, kernels, loops, steps, parts, wavefront, gradient, plan)), (deflate, b"", (blocks,)),
    ):  # fmt: skip
        text = fields + b"".join(Path(source.__file__).read_bytes() for source in sources)
        digest = hashlib.sha256(text).hexdigest()
        assert digest.startswith(module._TAKEN_FROM), f"set {module.__name__}._TAKEN_FROM to {digest[:16]}"
