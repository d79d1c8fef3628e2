"""The training loop: warm-up, constant rate, linear decay to zero; z may join a decoder that has been trained without.

The middle part has a constant rate, so one run can be continued in two ways (with z and without) and both compared at
equal training.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from vlae_codec.models.config import VLAEConfig
from vlae_codec.models.vlae import VLAE, nats_to_bits

from vlae_codec.errors import UnknownModel, VlaeError

from .binary import binary_batches, load_binary
from .data import Crops, CropStream, crop_loader, load_pictures
from .muon import Muon
from .processes import Processes
from .stopping import interruption_held

#: What of the synthesis of photographs is made for the local decoder alone.
FOR_DECODER = ("weights.5", "biases.5", "weights.6", "biases.6")
#: Spacings of lossy codes' lattices, in standard deviations of q(z | x), that z is trained for: the least and the most.
SPACINGS = (1.5, 8.0)
#: A lattice of twice the spacing has about this power of two of the squared error, so that much less may a unit cost.
SPACING_POWER = 1.5
#: Factor of the learning rates for the parts of z: in a model of whole images, and of photographs.
Z_RATE, PHOTO_Z_RATE = 0.25, 0.35


@dataclass(frozen=True)
class Schedule:
    """What a training run does; everything that decides its result besides the data and the configuration.

    ``free_bits`` are nats per patch and channel of z below which the KL costs nothing (Kingma et al. 2016, C.8). With
    ``soft_free_bits`` they are a target for the sum over the channels instead: the KL's weight falls by a tenth while
    the KL is below it, and rises by a tenth while it is over 5 % above (VLAE, appendix C).
    ``z_from`` is the step at which z joins; over the ``kl_warmup`` steps from there the KL's weight rises from zero to
    one, so that z first learns what helps the pixels and then keeps what pays. ``freeze_decoder`` trains only the parts
    of z. ``z_dropout`` is the share of crops that are coded without z, so that the decoder also serves rows and
    pictures that have none. ``distortion`` is what a unit of mean squared error of the reconstruction from z costs, in
    bits per pixel. With ``z_alone`` that and the KL are the whole objective, and the decoder, which takes most of the
    time, is left as it is; ``rounded`` then trains z for lossy codes of all `SPACINGS` in place of bits-back, where
    ``distortion`` is that of the middle one. ``freeze_z`` trains only the decoder and what it sees of the synthesis.
    ``changed`` multiplies the shares of crops that are noised, recompressed and so on, see `data.CropStream`.
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
    soft_free_bits: bool = False
    word_dropout: float = 0.0
    distortion: float = 0.0
    z_alone: bool = False
    freeze_z: bool = False
    rounded: bool = False
    changed: float = 1.0

    def __post_init__(self) -> None:
        counts = dict.fromkeys(("warmup", "decay", "seed", "z_from", "kl_warmup"), (0, 1 << 40))
        shares = dict.fromkeys(("z_dropout", "average", "word_dropout", "changed"), (0, 1))
        rates = dict.fromkeys(("rate", "matrix_rate", "free_bits", "distortion"), (0, 1000))
        limits = {"steps": (1, 1 << 40), "batch": (1, 1 << 20), "crop": (1, 1 << 14), **counts, **shares, **rates}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise VlaeError(f"training: {name} is {value}, expected {low}..{high}")

    def rate_at(self, step: int) -> float:
        """Factor of the learning rates at a step."""
        return min(1.0, (step + 1) / max(self.warmup, 1), (self.steps - step) / max(self.decay, 1))


def differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The settings whose values differ, such as ``steps was 30, is 31 now``; nothing if none do."""
    names = [name for name in sorted(before | now) if before.get(name) != now.get(name)]
    return "; ".join(f"{name} was {before.get(name)}, is {now.get(name)} now" for name in names)


@contextmanager
def subnormals_flushed() -> Iterator[None]:
    """Take subnormal numbers for zero: silent units leave many, and a CPU takes 70 times as long over them."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@dataclass
class Report:
    """Running means that the loop reports: bits per subpixel of photographs, nats per image of binary sets.

    ``error`` is the mean squared error of reconstructions from z, in squared pixel values, 0 for binary sets.
    """

    step: int
    pixels: float
    kl: float
    error: float
    images_per_second: float


def optimizers(model: VLAE, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the residual networks, Adam for everything else.

    Each group has a ``factor`` of the schedule's rates: what belongs to z in a model of whole images learns more slowly
    than the decoder. At the decoder's rate most of its rectified units fall silent within an epoch, and z with them.
    """
    inner: dict[str, tuple[str, ...]] = {
        "decoder": ("blocks", "head_weight1"),
        "encoder": ("blocks", "weights.2"),
        "features": ("blocks", "weights.2"),
    }
    if not model.config.image_size:
        inner |= {"encoder": ("blocks", "weights.1", "weights.2"), "features": ("blocks", "weights.1", "weights.2")}
    if schedule.freeze_decoder:
        inner = {}
    matrices: dict[float, list[nn.Parameter]] = {}
    others: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        part, _, rest = name.partition(".")
        if (schedule.freeze_decoder or schedule.z_alone) and part == "decoder":
            continue
        if schedule.freeze_z and part != "decoder" and not (part == "features" and rest in FOR_DECODER):
            continue
        factor = 1.0 if part == "decoder" else Z_RATE if model.config.image_size else PHOTO_Z_RATE
        # A depthwise layer is no matrix: its rows never meet.
        depthwise = model.config.depthwise and part == "decoder" and rest.endswith("weight2")
        is_matrix = parameter.ndim == 2 and rest.startswith(inner.get(part, ("-",))) and not depthwise
        chosen = matrices if is_matrix else others
        chosen.setdefault(factor, []).append(parameter)
    found: list[torch.optim.Optimizer] = []
    if matrices:
        found.append(Muon([{"params": p, "factor": f} for f, p in matrices.items()], lr=schedule.matrix_rate))
    groups = [{"params": p, "factor": f} for f, p in others.items()]
    found.append(torch.optim.Adam(groups, lr=schedule.rate, betas=(0.9, 0.99)))
    return found


def loss_of(
    model: VLAE, batch: Crops, schedule: Schedule, step: int, processes: Processes
) -> tuple[Tensor, float, float, float]:
    """The objective in nats per subpixel, -log p(x | z) and KL in bits per subpixel, and `Elbo.error`.

    ``batch`` is this process's share of a batch, and so are the results: the processes' sums are the whole batch's.
    """
    device = next(model.parameters()).device
    x = batch.x.to(device).float()
    channels = batch.channels.to(device)
    whole = schedule.batch / len(x)
    if schedule.z_alone:
        with torch.autocast(device.type, torch.bfloat16, enabled=schedule.bfloat16):
            spacing, cost = None, torch.ones(len(x), device=x.device)
            if schedule.rounded:
                low, high = (math.log(each) for each in SPACINGS)
                place = torch.rand(len(x), device=x.device) - 0.5
                spacing = torch.exp((low + high) / 2 + (high - low) * place)
                cost = torch.exp(-SPACING_POWER * (high - low) * place)
            _, kl, error = model.through_z(x, spacing=spacing)
        kl_mean = kl.sum() / (whole * x.numel())
        objective = kl_mean + schedule.distortion * math.log(2.0) / 3.0 * (cost * error).mean() / whole
        return objective, 0.0, nats_to_bits(kl_mean.item()), error.detach().mean().item() / whole
    use_z = None
    with_z = model.config.z_channels > 0 and step >= schedule.z_from
    if model.config.z_channels:
        use_z = (torch.rand(len(x)) >= schedule.z_dropout).to(device) & with_z
    with torch.autocast(device.type, torch.bfloat16, enabled=schedule.bfloat16):
        elbo = model(x, batch.low.to(device), batch.high.to(device), channels, use_z)
    subpixels = float(processes.total(channels.sum())) * x.shape[2] * x.shape[3]
    pixels = elbo.pixels.sum() / subpixels
    kl = elbo.kl.sum() / subpixels
    objective = pixels + schedule.distortion * math.log(2.0) / 3.0 * elbo.error.mean() / whole
    if with_z:
        patches = (x.shape[2] // VLAEConfig.Z_PATCH) * (x.shape[3] // VLAEConfig.Z_PATCH)
        assert use_z is not None
        free = schedule.free_bits * float(processes.total(use_z.sum())) * patches
        paid = _not_free(elbo.kl.sum(0), free, processes).sum() / subpixels
        objective = objective + min(1.0, (step - schedule.z_from + 1) / max(schedule.kl_warmup, 1)) * paid
    return objective, nats_to_bits(pixels.item()), nats_to_bits(kl.item()), float(elbo.error.detach().mean()) / whole


def _not_free(kl: Tensor, free: float, processes: Processes) -> Tensor:
    """The KL of each channel over this process's share, constant where that over all is below what is free."""
    return kl * (processes.total(kl.detach().clone()) > free)


def loss_of_images(
    model: VLAE, x: Tensor, schedule: Schedule, step: int, processes: Processes, weight: float
) -> tuple[Tensor, float, float, float]:
    """The objective in nats per pixel, and -log p(x | z) and KL in nats per image, of a batch of binary images.

    ``weight`` multiplies the KL; see `next_weight`. All are this process's share, as in `loss_of`.
    """
    device = next(model.parameters()).device
    x = x.to(device)
    whole = float(processes.total(torch.tensor(float(len(x)), device=device)))
    with torch.autocast(device.type, torch.bfloat16, enabled=schedule.bfloat16 and device.type == "cuda"):
        pixels, kl, _ = model.image_elbo(x, schedule.word_dropout)
    means = kl.sum(0) / whole
    paid = means.sum() if schedule.soft_free_bits else _not_free(means, schedule.free_bits, processes).sum()
    weight *= min(1.0, (step + 1) / max(schedule.kl_warmup, 1))
    # Per pixel, so that the limit on the gradient means the same for every size.
    return (
        (pixels.sum() / whole + weight * paid) / (x.shape[2] * x.shape[3]),
        float(pixels.detach().sum()) / whole,
        float(means.detach().sum()),
        0.0,
    )


def next_weight(weight: float, kl: float, schedule: Schedule, channels: int) -> float:
    """The KL's weight after a step whose KL was so many nats; one unless the free bits are soft."""
    target = schedule.free_bits * channels
    if not schedule.soft_free_bits:
        return 1.0
    if kl > 1.05 * target:
        return min(1.0, weight * 1.1)
    return max(1e-4, weight * 0.9) if kl < target else weight


class Trainer:
    """A run of training that can be stopped and resumed.

    Parameters
    ----------
    config : VLAEConfig
    schedule : Schedule
    folder : Path
        Where ``checkpoint.pt`` lies; it is read if it exists.
    start : Path or VLAE, optional
        A checkpoint of another run to begin from: its weights, averages, optimisers and step. Or a model of this
        configuration, from whose weights the schedule is run from its first step.
    processes : Processes, optional
        Those that train together, and the device of this one.
    """

    def __init__(
        self, config: VLAEConfig, schedule: Schedule, folder: Path, start: Path | VLAE | None = None,
        processes: Processes | None = None,
    ) -> None:  # fmt: skip
        torch.manual_seed(schedule.seed)
        side = VLAEConfig.Z_PATCH
        if config.z_channels and not config.image_size and schedule.crop % side:
            raise VlaeError(
                f"training: crop is {schedule.crop}, expected a multiple of {side}, the side of a square of z"
            )
        self.config, self.schedule, self.folder = config, schedule, folder
        self.processes = processes or Processes()
        if schedule.batch < self.processes.count:
            raise VlaeError(f"training: batch is {schedule.batch}, expected one for each of {self.processes.count}")
        self.device = torch.device(self.processes.device)
        self.model = VLAE(config).to(self.device)
        self.average = VLAE(config).to(self.device)
        self.average.load_state_dict(self.model.state_dict())
        self.optimizers = optimizers(self.model, schedule)
        trained = {id(p) for o in self.optimizers for group in o.param_groups for p in group["params"]}
        for parameter in self.model.parameters():
            parameter.requires_grad_(id(parameter) in trained)
        self.step = 0
        self.seconds = 0.0
        self.weight = 1.0
        if self.path.exists():
            self.load(self.path, resume=True)
        elif isinstance(start, VLAE):
            changed = differences(json.loads(start.config.to_json()), json.loads(config.to_json()))
            if changed:
                raise UnknownModel(f"the model to start from: {changed}; leave out what it should be")
            for module in (self.model, self.average):
                module.load_state_dict(start.state_dict())
        elif start is not None:
            self.load(start, resume=False)

    @property
    def path(self) -> Path:
        """The run's own checkpoint."""
        return self.folder / "checkpoint.pt"

    def save(self) -> None:
        """Write the checkpoint beside its final name, then rename; the first process does it for all."""
        if self.processes.number:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "config": self.config.to_json(),
            "schedule": dataclasses.asdict(self.schedule),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
            "weight": self.weight,
        }
        temporary = self.path.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.path)

    def load(self, path: Path, resume: bool) -> None:
        """Read a checkpoint of the same configuration; to resume, of the same schedule too."""
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            config = json.loads(VLAEConfig.from_json(state["config"]).to_json())
            # A checkpoint of before some settings existed was made with their defaults.
            schedule = dataclasses.asdict(Schedule()) | state["schedule"]
        except (OSError, UnknownModel):
            raise
        except Exception as error:
            raise UnknownModel(f"{path}: not a checkpoint of vlae-codec ({type(error).__name__})") from None
        changed = differences(config, json.loads(self.config.to_json()))
        if resume:
            changed = "; ".join(filter(None, [changed, differences(schedule, dataclasses.asdict(self.schedule))]))
        if changed:
            advice = ", or choose another folder" if resume else ""
            raise UnknownModel(f"{path}: {changed}; go on with the settings that it was made with{advice}")
        for module, key in ((self.model, "model"), (self.average, "average")):
            module.load_state_dict(state[key])
        if not resume and (self.config.image_size or schedule["z_alone"] != self.schedule.z_alone):
            # Another set or another objective: its own schedule from the first step, from these weights.
            self.model.load_state_dict(state["average"])
            return
        if resume or not self.schedule.freeze_decoder:
            for mine, saved in zip(self.optimizers, state["optimizers"], strict=True):
                mine.load_state_dict(saved)
        self.step = state["step"]
        self.seconds = state["seconds"]
        self.weight = state.get("weight", 1.0)

    def _batches(self, sources: list[Path], last: int) -> Iterator[Crops] | Iterator[Tensor]:
        schedule, number, count = self.schedule, self.processes.number, self.processes.count
        if self.config.image_size:
            images = np.concatenate([load_binary(path, self.config.image_size) for path in sources])
            share = slice(number, None, count)
            return binary_batches(images, schedule.batch, schedule.seed, self.step, last, share)
        pictures, numbers = load_pictures(sources, schedule.crop), range(number, schedule.batch, count)
        stream = CropStream(pictures, schedule.crop, numbers, schedule.seed, self.step, last, schedule.changed)
        return crop_loader(stream)

    def _loss(self, batch: Crops | Tensor) -> tuple[Tensor, float, float, float]:
        if isinstance(batch, Crops):
            return loss_of(self.model, batch, self.schedule, self.step, self.processes)
        return loss_of_images(self.model, batch, self.schedule, self.step, self.processes, self.weight)

    def run(
        self, sources: list[Path], report: Callable[[Report], None], save_every: int = 500, until: int | None = None
    ) -> None:
        """Train to the schedule's end, or to step ``until``, calling ``report`` after every step.

        Ctrl-C ends it after the step that is under way: the checkpoint is saved, then `KeyboardInterrupt` raised.
        `VlaeError` where a step diverges, and the last checkpoint stays.
        """
        schedule = self.schedule
        last = min(schedule.steps, until or schedule.steps)
        if self.step >= last:
            return
        batches = self._batches(sources, last)
        means, weight_sum = np.zeros(3), 0.0
        before, begun = self.seconds, time.monotonic()
        first = self.step
        self.model.train()
        with interruption_held() as interrupted, subnormals_flushed():
            for batch in batches:
                parts = self._totals(self._train_on(batch))
                if not np.isfinite(parts).all():
                    raise VlaeError(
                        f"training: step {self.step} gave {parts[0]:g} for the pixels, {parts[1]:g} for the KL and an "
                        f"error of {parts[2]:g}, expected finite numbers; --rate and --matrix-rate want to be smaller"
                    )
                if self.config.image_size:
                    self.weight = next_weight(self.weight, parts[1], schedule, self.config.z_channels)
                means = 0.99 * means + np.array(parts)
                weight_sum = 0.99 * weight_sum + 1.0
                self.seconds = before + time.monotonic() - begun
                speed = (self.step - first) * schedule.batch / (self.seconds - before)
                pixels, kl, error = (means / weight_sum).tolist()
                report(Report(self.step, pixels, kl, error, speed))
                # Each process may hear of it after another step: all stop after the first that does.
                stop = self._totals([float(interrupted())]) != [0.0]
                if self.step % save_every == 0 or self.step == last or stop:
                    self.save()
                if stop:
                    raise KeyboardInterrupt(f"interrupted; step {self.step} is saved, the same command goes on from it")

    def _totals(self, parts: list[float]) -> list[float]:
        """Sums over the processes."""
        return self.processes.total(torch.tensor(parts, device=self.device)).tolist()

    def _train_on(self, batch: Crops | Tensor) -> list[float]:
        """One step of the optimisers and of the average; what `_loss` says of pixels, KL and error."""
        schedule = self.schedule
        # One seed a step, so that a resumed run draws the same noise as one that was never stopped; and a process.
        torch.manual_seed(schedule.seed * 1_000_003 + self.step + (self.processes.number << 40))
        for optimizer in self.optimizers:
            rate = schedule.matrix_rate if isinstance(optimizer, Muon) else schedule.rate
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factor"] * schedule.rate_at(self.step)
        objective, *parts = self._loss(batch)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        objective.backward()
        self.processes.add_gradients(self.model.parameters())
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        # The average forgets its beginning: short at first, then as long as asked for.
        keep = min(schedule.average, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for mine, other in zip(self.average.parameters(), self.model.parameters(), strict=True):
                mine.lerp_(other, 1.0 - keep)
        return parts
