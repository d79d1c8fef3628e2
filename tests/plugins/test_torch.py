from __future__ import annotations

import multiprocessing
import os
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import binary_images, picture
from PIL import Image
from torch.utils.data import DataLoader

from vlae_codec import Archive, CorruptFile, ImageDataset, Model, SegmentSampler, UnsupportedImage
from vlae_codec.formats.archive_writer import archive_array, archive_files
from vlae_codec.images.sets import find_images
from vlae_codec.plugins.torch import as_array


@pytest.fixture
def digits() -> np.ndarray:
    return binary_images(50, 8)


@pytest.fixture
def path(binary_model: Model, tmp_path: Path, digits: np.ndarray) -> Path:
    path = tmp_path / "set.vlae"
    path.write_bytes(archive_array(digits, binary_model, segment=10, embed=True))
    return path


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """Counts how often each segment is decoded."""
    counts: Counter = Counter()
    decode = Archive.binary_segment

    def counting(self: Archive, segment: object) -> np.ndarray:
        counts[segment] += 1
        return decode(self, segment)

    monkeypatch.setattr(Archive, "binary_segment", counting)
    return counts


def test_a_shuffled_loader_decodes_each_segment_once(path: Path, digits: np.ndarray, decoded: Counter) -> None:
    loader = DataLoader(ImageDataset(path, device="cpu"), batch_size=7, shuffle=True)
    for _ in range(2):
        batches = list(loader)
        assert all(isinstance(batch, torch.Tensor) and batch.dtype == torch.uint8 for batch in batches)
        together = torch.cat(batches).numpy()
        assert not np.array_equal(together, digits)
        assert sorted(image.tobytes() for image in together) == sorted(image.tobytes() for image in digits)
    assert set(decoded.values()) == {1}
    assert len(decoded) == 5


def test_the_sampler_decodes_each_segment_once_an_epoch(path: Path, digits: np.ndarray, decoded: Counter) -> None:
    dataset = ImageDataset(path, device="cpu", kept=2)
    sampler = SegmentSampler(dataset, seed=3)
    assert len(sampler) == 50
    epochs = [list(sampler) for _ in range(2)]
    assert epochs[0] != epochs[1]
    assert list(SegmentSampler(dataset, seed=3)) == epochs[0]
    for epoch in epochs:
        assert sorted(epoch) == list(range(50))
        # Two segments are mixed at a time, and stay the same two.
        assert len({index // 10 for index in epoch[:20]}) == 2
        assert [index // 10 for index in epoch[:20]] != sorted(index // 10 for index in epoch[:20])
    loader = DataLoader(dataset, batch_size=5, sampler=SegmentSampler(dataset, seed=3))
    assert np.array_equal(np.concatenate([batch.numpy() for batch in loader]), digits[epochs[0]])
    assert set(decoded.values()) == {1}


def test_the_segment_that_was_not_used_for_longest_is_dropped(path: Path, decoded: Counter) -> None:
    with Archive.open(path, device="cpu") as archive:
        archive.kept = 2
        for index in (0, 10, 1, 20, 2):
            archive[index]
        assert set(decoded.values()) == {1}
        archive[11]
        assert decoded[archive.segments[1]] == 2
        archive.max_pixels = 10 * 64
        archive[0]
        archive[40]
        archive[12]
        assert len(archive._decoded.segments) == 1


def test_in_worker_processes(path: Path, digits: np.ndarray) -> None:
    dataset = ImageDataset(path, transform=np.ascontiguousarray, device="cpu")
    assert len(dataset) == 50
    assert np.array_equal(pickle.loads(pickle.dumps(dataset))[3], digits[3])
    loader = DataLoader(dataset, batch_size=5, num_workers=2, multiprocessing_context="spawn")
    assert np.array_equal(np.concatenate([batch.numpy() for batch in loader]), digits)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_opens_the_file_for_itself(tiny_model: Model, tmp_path: Path) -> None:
    path = tmp_path / "set.vlae"
    path.write_bytes(archive_array(np.zeros((3, 4, 4, 4), np.uint8), tiny_model))
    dataset = ImageDataset(path, device="cpu")
    dataset[0]
    assert dataset._opened is not None
    file = dataset._opened[1].file._file
    place = file.tell()

    def read() -> None:
        dataset[2]
        os._exit(7 if dataset._opened[1].file._file is not file else 1)

    child = multiprocessing.get_context("fork").Process(target=read)
    child.start()
    child.join()
    assert child.exitcode == 7
    assert file.tell() == place


def test_files_of_an_archive_collate_as_arrays(tiny_model: Model, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pixels = [picture("smooth", 20, 30, seed) for seed in range(3)]
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "in" / f"{number}.png")
    path = tmp_path / "set.vlae"
    path.write_bytes(archive_files(find_images([tmp_path / "in"]), tiny_model))
    dataset = ImageDataset(path, device="cpu")
    (batch,) = DataLoader(dataset, batch_size=3)
    assert np.array_equal(batch.numpy(), pixels)
    assert np.array_equal(dataset["1.png"], pixels[1])
    sizes = ImageDataset(path, transform=lambda image: image.size, device="cpu")
    assert sizes[2] == (30, 20)
    with Archive.open(path, device="cpu") as archive:
        assert [image.size for image in archive[1:]] == [(30, 20)] * 2
        assert archive[5:] == []


def test_archives_by_name_and_slice(path: Path, digits: np.ndarray) -> None:
    with Archive.open(path, device="cpu") as archive:
        for part in (slice(8, 13), slice(None, None, -7), slice(-3, None), slice(60, 70)):
            assert np.array_equal(archive[part], digits[part])
        assert archive[:0].shape == (0, 8, 8)
        assert np.array_equal(archive["12"], digits[12])
        assert np.array_equal(archive[np.int64(-1)], digits[-1])
        with pytest.raises(UnsupportedImage, match="no image 'seven'"):
            archive["seven"]
        for wrong in (50, -51):
            with pytest.raises(IndexError):
                archive[wrong]
        with pytest.raises(TypeError):
            archive[1.5]


def test_a_damaged_segment_leaves_the_others(path: Path, digits: np.ndarray, decoded: Counter) -> None:
    with Archive.open(path, device="cpu") as archive:
        at = archive.segments[2].offset
    data = bytearray(path.read_bytes())
    data[at + 40] ^= 1
    path.write_bytes(data)
    dataset = ImageDataset(path, device="cpu")
    assert np.array_equal(dataset[39], digits[39])
    for index in (20, 21):
        with pytest.raises(CorruptFile):
            dataset[index]
    assert max(decoded.values()) == 1


def test_palettes_are_resolved() -> None:
    image = Image.fromarray(picture("smooth", 6, 7)).quantize(5)
    assert np.array_equal(as_array(image), np.asarray(image.convert("RGB")))
    image.info["transparency"] = 2
    assert as_array(image).shape == (6, 7, 4)
    assert as_array(Image.new("1", (3, 2), 1)).all()
