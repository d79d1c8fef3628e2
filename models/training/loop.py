"""The training loop: warm-up, constant rate, linear decay to zero; z may join a decoder that has been trained without.

The middle part has a constant rate, so one run can be continued in two ways (with z and without) and both compared at
equal training.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from vlae_codec.errors import UnknownModel

from ..config import VLAEConfig
from ..vlae import VLAE, nats_to_bits
from .data import Batch, crop_loader, load_pictures


@dataclass(frozen=True)
class Schedule:
    """What a training run does; everything that decides its result besides the data and the configuration.

    ``free_bits`` are nats per patch and channel of z below which the KL costs nothing (Kingma et al. 2016, C.8).
    ``z_from`` is the step at which z joins; over the ``kl_warmup`` steps from there the KL's weight rises from zero to
    one, so that z first learns what helps the pixels and then keeps what pays. ``freeze_decoder`` trains only the parts
    of z. ``z_dropout`` is the share of crops that are coded without z, so that the decoder also serves rows and
    pictures that have none.
    """

    steps: int = 20000
    warmup: int = 100
    decay: int = 6000
    batch: int = 8
    crop: int = 64
    rate: float = 2e-3
    matrix_rate: float = 4e-3
    seed: int = 0
    z_from: int = 0
    free_bits: float = 0.1
    kl_warmup: int = 0
    freeze_decoder: bool = False
    z_dropout: float = 0.1
    average: float = 0.999
    bfloat16: bool = True

    def rate_at(self, step: int) -> float:
        """Factor of the learning rates at a step."""
        return min(1.0, (step + 1) / max(self.warmup, 1), (self.steps - step) / max(self.decay, 1))


@dataclass
class Progress:
    """Running means that the loop reports, in bits per subpixel."""

    step: int
    pixels: float
    kl: float
    crops_per_second: float


def optimizers(model: VLAE, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Muon for the square-ish matrices inside the decoder, Adam for everything else."""
    matrices = [
        p for name, p in model.decoder.named_parameters() if p.ndim == 2 and name.startswith(("blocks", "head_weight1"))
    ]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    if schedule.freeze_decoder:
        fixed = {id(p) for p in model.decoder.parameters()}
        return [torch.optim.Adam([p for p in others if id(p) not in fixed], lr=schedule.rate, betas=(0.9, 0.99))]
    return [
        torch.optim.Muon(matrices, lr=schedule.matrix_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.Adam(others, lr=schedule.rate, betas=(0.9, 0.99)),
    ]


def loss_of(
    model: VLAE, batch: Batch, schedule: Schedule, step: int, device: torch.device
) -> tuple[Tensor, float, float]:
    """The objective in nats per subpixel, and -log p(x | z) and KL in bits per subpixel."""
    x = batch.x.to(device).float()
    channels = batch.channels.to(device)
    use_z = None
    with_z = model.config.z_channels > 0 and step >= schedule.z_from
    if model.config.z_channels:
        use_z = (torch.rand(len(x)) >= schedule.z_dropout).to(device) & with_z
    with torch.autocast(device.type, torch.bfloat16, enabled=schedule.bfloat16):
        elbo = model(x, batch.low.to(device), batch.high.to(device), channels, use_z)
    subpixels = float(channels.sum()) * x.shape[2] * x.shape[3]
    pixels = elbo.pixels.sum() / subpixels
    kl = elbo.kl.sum() / subpixels
    objective = pixels
    if with_z:
        patches = (x.shape[2] // VLAEConfig.Z_PATCH) * (x.shape[3] // VLAEConfig.Z_PATCH)
        count = float(use_z.sum()) * patches if use_z is not None else float(len(x) * patches)
        paid = elbo.kl.sum(0).clamp(min=schedule.free_bits * count).sum() / subpixels
        objective = objective + min(1.0, (step - schedule.z_from + 1) / max(schedule.kl_warmup, 1)) * paid
    return objective, nats_to_bits(pixels.item()), nats_to_bits(kl.item())


class Trainer:
    """A run of training that can be stopped and resumed.

    Parameters
    ----------
    config : VLAEConfig
    schedule : Schedule
    folder : Path
        Where ``checkpoint.pt`` lies; it is read if it exists.
    start : Path, optional
        A checkpoint of another run to begin from: its weights, averages, optimisers and step.
    device : str
    """

    def __init__(
        self, config: VLAEConfig, schedule: Schedule, folder: Path, start: Path | None = None, device: str = "cpu"
    ) -> None:
        torch.manual_seed(schedule.seed)
        self.config, self.schedule, self.folder = config, schedule, folder
        self.device = torch.device(device)
        self.model = VLAE(config).to(self.device)
        self.average = VLAE(config).to(self.device)
        self.average.load_state_dict(self.model.state_dict())
        self.optimizers = optimizers(self.model, schedule)
        self.model.decoder.requires_grad_(not schedule.freeze_decoder)
        self.step = 0
        self.seconds = 0.0
        if self.path.exists():
            self.load(self.path, resume=True)
        elif start is not None:
            self.load(start, resume=False)

    @property
    def path(self) -> Path:
        """The run's own checkpoint."""
        return self.folder / "checkpoint.pt"

    def save(self) -> None:
        """Write the checkpoint beside its final name, then rename."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "config": self.config.to_json(),
            "schedule": dataclasses.asdict(self.schedule),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
        }
        temporary = self.path.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.path)

    def load(self, path: Path, resume: bool) -> None:
        """Read a checkpoint of the same configuration; to resume, of the same schedule too."""
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except Exception as error:
            raise UnknownModel(f"{path}: not a checkpoint of vlae-codec ({type(error).__name__})") from None
        if VLAEConfig.from_json(state["config"]) != self.config:
            raise UnknownModel(
                f"{path}: was made with configuration {state['config']}, expected {self.config.to_json()}"
            )
        if resume and state["schedule"] != dataclasses.asdict(self.schedule):
            raise UnknownModel(f"{path}: was made with schedule {state['schedule']}, expected {self.schedule}")
        for module, key in ((self.model, "model"), (self.average, "average")):
            module.load_state_dict(state[key])
        if resume or not self.schedule.freeze_decoder:
            for mine, saved in zip(self.optimizers, state["optimizers"], strict=True):
                mine.load_state_dict(saved)
        self.step = state["step"]
        self.seconds = state["seconds"]

    def run(
        self, folders: list[Path], report: Callable[[Progress], None], save_every: int = 500, until: int | None = None
    ) -> None:
        """Train to the schedule's end, or to step ``until``, calling ``report`` after every step."""
        schedule = self.schedule
        last = min(schedule.steps, until or schedule.steps)
        if self.step >= last:
            return
        pictures = load_pictures(folders, schedule.crop)
        batches = crop_loader(pictures, schedule.crop, schedule.batch, schedule.seed, self.step, last)
        pixels_mean = kl_mean = weight_sum = 0.0
        before, begun = self.seconds, time.monotonic()
        first = self.step
        self.model.train()
        for batch in batches:
            # One seed a step, so that a resumed run draws the same noise as one that was never stopped.
            torch.manual_seed(schedule.seed * 1_000_003 + self.step)
            for optimizer in self.optimizers:
                rate = schedule.matrix_rate if isinstance(optimizer, torch.optim.Muon) else schedule.rate
                for group in optimizer.param_groups:
                    group["lr"] = rate * schedule.rate_at(self.step)
            objective, pixels, kl = loss_of(self.model, batch, schedule, self.step, self.device)
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
            objective.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            for optimizer in self.optimizers:
                optimizer.step()
            self.step += 1
            # The average forgets its beginning: short at first, then as long as asked for.
            keep = min(schedule.average, (self.step + 1) / (self.step + 10))
            with torch.no_grad():
                for mine, other in zip(self.average.parameters(), self.model.parameters(), strict=True):
                    mine.lerp_(other, 1.0 - keep)
            pixels_mean, kl_mean = 0.99 * pixels_mean + pixels, 0.99 * kl_mean + kl
            weight_sum = 0.99 * weight_sum + 1.0
            self.seconds = before + time.monotonic() - begun
            speed = (self.step - first) * schedule.batch / (self.seconds - before)
            report(Progress(self.step, pixels_mean / weight_sum, kl_mean / weight_sum, speed))
            if self.step % save_every == 0 or self.step == last:
                self.save()
