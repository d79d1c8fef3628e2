"""The same bytes from every instruction set, number of threads and layout of batches, each in a process of its own."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import EXAMPLES, GOLDEN
from PIL import Image

# Compress, decompress what this process made and what the first process made, and print digests of all.
SCRIPT = """
import hashlib, sys
import numpy as np
from PIL import Image
import vlae_codec
from vlae_codec.models.exact import bands as network

band, image_path, model_path, reference = sys.argv[1:5]
network.BAND_PIXELS = int(band)
model = vlae_codec.load_model(model_path, "cpu")
image = Image.open(image_path).convert("RGB").crop((100, 100, 320, 310))
data = vlae_codec.compress(image, model, verify=False)
if reference:
    assert vlae_codec.decompress(open(reference, "rb").read(), model).tobytes() == image.tobytes()
assert vlae_codec.decompress(data, model).tobytes() == image.tobytes()
sys.stdout.buffer.write(data)
"""

# The same for an archive of binary images.
ARCHIVE_SCRIPT = """
import io, sys
import numpy as np
import vlae_codec
from vlae_codec.models.exact import binary as batch

sys.path.insert(0, sys.argv[1])
from conftest import binary_images

batch.CHUNK = int(sys.argv[2])
model = vlae_codec.load_model("static-mnist", "cpu")
images = binary_images(60, 28)
# The first stages have one draw of each z.
data = vlae_codec.archive_array(images, model, verify=False, particles=4)
for each in [data, *(open(path, "rb").read() for path in sys.argv[3:])]:
    assert np.array_equal(vlae_codec.Archive(io.BytesIO(each), model).array(), images)
sys.stdout.buffer.write(data)
"""

SETTINGS = [
    {},
    {"ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
    {"ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "OPENBLAS_CORETYPE": "Haswell"},
    {"ONEDNN_MAX_CPU_ISA": "SSE41", "NUMBA_CPU_NAME": "generic", "OPENBLAS_CORETYPE": "Prescott"},
]


def run(settings: dict[str, str], band: int, model: str, reference: str, cache: Path) -> bytes:
    return run_script(settings, cache, SCRIPT, str(band), str(EXAMPLES / "lake.png"), model, reference)


def run_script(settings: dict[str, str], cache: Path, *arguments: str) -> bytes:
    environment = os.environ | settings | {"NUMBA_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where compiled loops are kept, apart by instruction set, so that they are compiled once for each."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", params=["photo", "photo-global"])
def reference(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A file named as its model, which has masked layers and no z, or depthwise layers and z."""
    folder = tmp_path_factory.mktemp("reference")
    path = folder / f"{request.param}.vlae"
    path.write_bytes(run({}, 8192, request.param, "", cache))
    return path


@pytest.mark.parametrize("settings", SETTINGS[1:], ids=lambda s: " ".join(f"{k}={v}" for k, v in s.items()))
@pytest.mark.parametrize("band", [8192, 500])
def test_the_same_bytes_everywhere(settings: dict[str, str], band: int, reference: Path, cache: Path) -> None:
    assert run(settings, band, reference.stem, str(reference), cache) == reference.read_bytes()


@pytest.fixture(scope="module")
def reference_archive(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    path = folder / "reference.vlae"
    path.write_bytes(run_script({}, cache, ARCHIVE_SCRIPT, str(GOLDEN.parent), "32"))
    return path


@pytest.mark.parametrize("settings", SETTINGS[1:], ids=lambda s: " ".join(f"{k}={v}" for k, v in s.items()))
def test_the_same_archive_everywhere(settings: dict[str, str], reference_archive: Path, cache: Path) -> None:
    arguments = [ARCHIVE_SCRIPT, str(GOLDEN.parent), "7", str(reference_archive)]
    assert run_script(settings, cache, *arguments) == reference_archive.read_bytes()


def test_the_test_picture_is_coded_by_the_model(reference: Path) -> None:
    import vlae_codec

    assert vlae_codec.info(reference.read_bytes())["mode"].startswith("vlae")


@pytest.mark.parametrize("threads", [1, 2])
def test_tiny_model_files_do_not_depend_on_threads(threads: int, cache: Path) -> None:
    with Image.open(EXAMPLES / "lake.png") as image:
        assert image.mode == "RGB"
    settings = {"OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads)}
    tiny = str(GOLDEN / "tiny.safetensors")
    assert run(settings, 8192, tiny, "", cache) == run({}, 300, tiny, "", cache)


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
