"""Several processes that train one model together, as torchrun starts them: each takes a share of every batch.

Their gradients are added up, so that all of them take the step that one process takes with the whole batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.distributed.nn  # its defaults would hold on to the processes' group, if it came after them
from torch import Tensor, nn

from vlae_codec.errors import VlaeError


@dataclass(frozen=True)
class Processes:
    """The number of this process among so many; by default it is alone."""

    number: int = 0
    count: int = 1
    device: str = "cpu"

    def total(self, values: Tensor) -> Tensor:
        """The sum of a tensor over the processes, in its place."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give every process the sum of all gradients; what is a gradient for none stays none."""
        if self.count == 1:
            return
        trained = [p for p in parameters if p.requires_grad]
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        there = torch.tensor([float(p.grad is not None) for p in trained], device=trained[0].device)
        whole = self.total(torch.cat([there, *(part.reshape(-1) for part in parts)]))
        at = len(trained)
        for i, parameter in enumerate(trained):
            if whole[i]:
                parameter.grad = whole[at : at + parameter.numel()].view_as(parameter)
            at += parameter.numel()


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """The processes that torchrun has started, this one among them, until the end of the block.

    Parameters
    ----------
    device : str
        ``cpu``, ``cuda`` or ``cuda:N``; of ``cuda`` each process of a machine takes a GPU of its own.

    Raises
    ------
    VlaeError
        If the processes cannot find each other.
    """
    if not dist.is_torchelastic_launched():
        yield Processes(device=device)
        return
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    except (ValueError, RuntimeError) as error:
        raise VlaeError(f"training in several processes: {error}") from None
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()
