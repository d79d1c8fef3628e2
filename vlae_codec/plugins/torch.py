"""An archive as a dataset for training."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from torch.utils.data import Dataset

from vlae_codec.formats.archive import Archive


class ImageDataset(Dataset[Any]):
    """The images of an archive, decoded as they are asked for; works with the workers of a `DataLoader`.

    A segment decodes as a whole and the last one is kept, so in order, or in small segments, access is cheap. Each
    process opens the file for itself. Workers should be started by ``spawn``, as the compiled loops' threads do not
    survive a fork.

    Parameters
    ----------
    path : path of the archive
    transform : function, optional
        Applied to each image: an array, or a PIL image for archives of files.
    device : str
        Where the networks run.
    """

    def __init__(
        self, path: str | os.PathLike[str], transform: Callable[[Any], Any] | None = None, device: str = "auto"
    ) -> None:
        self.path = path
        self.transform = transform
        self.device = device
        with Archive.open(path) as archive:
            self.length = len(archive)
        self._archive: Archive | None = None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        """Image number ``index``; raises as `Archive.__getitem__` does."""
        if self._archive is None:
            self._archive = Archive.open(self.path, device=self.device)
        image = self._archive[index]
        return self.transform(image) if self.transform else image

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_archive": None}
