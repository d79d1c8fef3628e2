"""Work on a real Ray cluster: nodes of one machine, of which one is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import fsspec
import pytest
from conftest import GOLDEN, picture
from PIL import Image
from test_cli import TINY, call

from vlae_codec import folders
from vlae_codec.errors import VlaeError
from vlae_codec.workers import Ray, run_each

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Ray makes no cluster of several nodes on Windows")

cluster_utils = pytest.importorskip("ray.cluster_utils", reason="Ray has no release for this Python")
from ray import cloudpickle  # noqa: E402

COUNT = 90


@pytest.fixture(scope="module")
def cluster(store: str) -> Iterator[cluster_utils.Cluster]:
    """A head that only keeps the books, and two nodes that work; they know of the S3 server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLAE_CODEC_MODELS", str(GOLDEN))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # That a node is gone is seen after seconds.
        quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500}
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": quick}
        found = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
        for _ in range(2):
            found.add_node(num_cpus=1)
        yield found
        found.shutdown()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for number in range(COUNT):
        name = f"sub/{number}.png" if number % 3 else f"{number}.png"
        Image.fromarray(picture("smooth", 24, 20, number)).save(folder / name)
    return folder


def held(url: str | Path) -> dict[str, bytes]:
    """All that lies below a URL or a folder, hidden files too."""
    system, path = fsspec.url_to_fs(str(url))
    system.invalidate_cache()
    return {name[len(path) + 1 :]: system.cat_file(name) for name in system.find(path)}


def begin(*arguments: object) -> subprocess.Popen:
    """The command, in a group of processes of its own, as a terminal has it."""
    command = [sys.executable, "-m", "vlae_codec.cli", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )  # fmt: skip


def wait_until_begun(process: subprocess.Popen, place: str | Path, least: int) -> int:
    """Wait until some outputs are there, whole, and give their number."""
    system, path = fsspec.url_to_fs(str(place))
    while process.poll() is None:
        system.invalidate_cache()
        names = system.find(path) if system.exists(path) else []
        count = sum(name.endswith(".vlae") for name in names)
        if count >= least:
            return count
        time.sleep(0.05)
    pytest.fail(f"ended too soon: {process.communicate()}")


@pytest.mark.parametrize("where", ["folder", "file", "s3"])
def test_a_node_that_is_killed_half_way(
    where: str, cluster: cluster_utils.Cluster, images: Path, tmp_path: Path, store: str
) -> None:
    """Nothing is lost, and nothing half-written has an output's name."""
    out = {"folder": f"{tmp_path}/out/", "file": f"file://{tmp_path}/out", "s3": f"{store}/out"}[where]
    process = begin("compress", images, "-o", out, "-r", "-m", TINY, "--engine", "ray", "--address", cluster.address,
                    "--json", "-q")  # fmt: skip
    begun = wait_until_begun(process, out, 10)
    node = next(iter(cluster.worker_nodes))
    cluster.remove_node(node, allow_graceful=False)
    stdout, stderr = process.communicate()
    cluster.add_node(num_cpus=1)
    assert (process.returncode, stderr) == (0, "")
    assert begun < COUNT, "all was done before a node was killed, so the test says nothing"
    totals = json.loads(stdout)["totals"]
    assert (totals["files"], totals["ok"]) == (COUNT, COUNT)
    packed = held(out)
    left = {name for name in packed if name.endswith(".tmp")}
    # Where processes write that are killed, what they left is hidden, and goes when the same output is written again.
    assert not left or (where == "file" and all(Path(name).name.startswith(".vlae-") for name in left))
    assert packed.keys() - left == {f"{name}.vlae" for name in held(images)}
    back = tmp_path / "back"
    assert call("decompress", out, "-o", f"{back}/", "-r", "-m", TINY, "-j", "0", "-q").exit_code == 0
    assert held(back) == held(images)


def mark(path: str) -> None:
    """Note that this process was made ready."""
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")


def process_of(number: int) -> int:
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def test_each_worker_is_made_ready_once_and_only_what_kills_its_worker_is_given_up(
    cluster: cluster_utils.Cluster, tmp_path: Path
) -> None:
    # Workers cannot import a test.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    done = dict(run_each(process_of, range(50), Ray(cluster.address), partial(mark, f"{tmp_path}/ready")))
    assert [number for number, process in done.items() if process is None] == [5]
    assert sorted(done) == list(range(50))
    ready = (tmp_path / "ready").read_text().split()
    assert len(ready) == len(set(ready))
    assert {str(process) for process in done.values() if process} <= set(ready)


def test_a_model_given_by_its_path_reaches_the_workers(
    cluster: cluster_utils.Cluster, images: Path, tmp_path: Path
) -> None:
    model = tmp_path / "mine.safetensors"
    shutil.copy(TINY, model)
    engine = Ray(cluster.address)
    coding = folders.Coding(str(model)).loaded(engine)
    model.unlink()
    tasks = folders.plan_compress([images / "0.png", images / "3.png"]).tasks
    done = list(folders.compress(tasks, tmp_path / "out", coding, engine=engine))
    assert [outcome.status for outcome in done] == ["ok", "ok"]
    found = list(folders.compress(tasks, tmp_path / "more", replace(coding, model_file=None), engine=engine))
    assert all("no model" in (outcome.error or "") for outcome in found)


def test_verify_and_going_on(cluster: cluster_utils.Cluster, images: Path, tmp_path: Path) -> None:
    few = [images / f"{number}.png" for number in (0, 3, 6)]
    packed = tmp_path / "packed"
    assert call("compress", *few, "-o", f"{packed}/", "-m", TINY, "-j", "0", "-q").exit_code == 0
    whole = held(packed)
    (packed / "3.png.vlae").unlink()
    where = ("--engine", "ray", "--address", cluster.address)
    result = call("compress", *few, "-o", f"{packed}/", "-m", TINY, "--skip-existing", "--json", "-q", *where)
    assert [file["status"] for file in json.loads(result.stdout)["files"]] == ["skipped", "ok", "skipped"]
    assert held(packed) == whole
    (packed / "6.png.vlae").write_bytes(whole["6.png.vlae"][:-1])
    result = call("verify", packed, "-m", TINY, *where)
    assert (result.exit_code, len(result.stdout.splitlines())) == (1, 2)
    assert result.stderr.startswith(f"{packed}/6.png.vlae: ")


def test_what_a_cluster_cannot_do(cluster: cluster_utils.Cluster, images: Path, tmp_path: Path) -> None:
    arguments = ("compress", images, "-o", f"{tmp_path}/out/", "-m", TINY, "--engine", "ray")
    result = call(*arguments, "--address", cluster.address, "--threads", "64")
    assert result.stderr == "vlae-codec: no node of the cluster has 64 CPUs, the largest has 1\n"
    assert call(*arguments, "-j", "2").exit_code == 2
    assert call("compress", images, "-o", f"{tmp_path}/out/", "--address", "local").exit_code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "ray://127.0.0.1:1"])
def test_where_no_cluster_is(address: str) -> None:
    with pytest.raises(VlaeError, match=f"no Ray cluster at {address}: "):
        list(run_each(process_of, [1], Ray(address), os.getpid))


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(VlaeError, match=r"Ray is not installed: pip install 'vlae-codec\[cluster\]'"):
        list(run_each(process_of, [1], Ray(), os.getpid))


def test_interrupted_on_a_cluster_of_its_own(images: Path, tmp_path: Path) -> None:
    # Pictures that take so long that not all are done between the look at the first and the interruption.
    large = tmp_path / "large.png"
    Image.fromarray(picture("smooth", 160, 160)).save(large)
    for name in held(images):
        shutil.copy(large, images / name)
    out = tmp_path / "out"
    process = begin("compress", images, "-o", f"{out}/", "-r", "-m", TINY, "--engine", "ray", "--address", "local")
    wait_until_begun(process, out, 1)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate()
    assert (process.returncode, stderr) == (130, "vlae-codec: interrupted\n")
    assert 0 < len(held(out)) < COUNT
    assert all(name.endswith(".vlae") for name in held(out))
