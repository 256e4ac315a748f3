"""The training loop: plain PyTorch, one objective in nats per example, no model's name.

Everything a run depends on is in its checkpoint, so that a run which was stopped or killed, and resumed, ends with the
same weights as one that was not, bit for bit on the CPU: weights and their average, optimiser, random numbers, and the
position in the data, whose order follows from seed and epoch alone.
"""

import math
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .._extras import require
from ..data import Dataset
from . import checkpoint
from .likelihood import Nats, evaluate
from .run import Record, Run

Tensors = tuple[Tensor, ...] | list[Tensor]

SYNC_EVERY = 25
"""Steps between looks at the losses on a device that runs ahead of Python; on the CPU every step is looked at."""


class NonFiniteError(ArithmeticError):
    """A loss or gradient became infinite or not a number."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to optimise."""

    epochs: int = 20
    """Passes over the training images."""
    batch_size: int = 64
    """Images in a step."""
    lr: float = 1e-3
    """Learning rate of Adam."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW), for data that is soon learnt by heart."""
    warmup: int = 0
    """Steps over which the learning rate rises to its value."""
    schedule: Literal["constant", "cosine"] = "constant"
    """What the learning rate does then; cosine falls to zero at the last step."""
    ema: float = 0.999
    """Decay of the moving average of the weights, which is evaluated and sampled from; 0 turns it off."""
    clip: float = 1.0
    """Largest norm of the gradient of nats per dimension; 0 turns clipping off."""
    seed: int = 0
    """Of weights, data order and samples."""
    save_every: int = 0
    """Steps between checkpoints inside an epoch; 0 saves at the end of each epoch only."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "warmup", "seed", "save_every"):
            if not isinstance(getattr(self, name), int):
                raise ValueError(f"{name}: expected an integer, got {getattr(self, name)!r}")
        checks = {
            "epochs": (self.epochs >= 0, "0 or more"),
            "batch_size": (self.batch_size >= 1, "1 or more"),
            "lr": (0 < self.lr < math.inf, "a positive number"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "0 or more, finite"),
            "warmup": (self.warmup >= 0, "0 or more"),
            "schedule": (self.schedule in ("constant", "cosine"), "constant or cosine"),
            "ema": (0 <= self.ema < 1, "0 or more, below 1"),
            "clip": (0 <= self.clip < math.inf, "0 or more, finite"),
            "seed": (0 <= self.seed < 2**63, "0 or more, below 2**63"),
            "save_every": (self.save_every >= 0, "0 or more"),
        }
        for name, (holds, expected) in checks.items():
            if not holds:
                raise ValueError(f"{name}: expected {expected}, got {getattr(self, name)}")

    def lr_at(self, step: int, steps: int) -> float:
        """Learning rate of step ``step`` (from 0) of ``steps``."""
        lr = self.lr * min(1.0, (step + 1) / (self.warmup + 1))
        return lr * 0.5 * (1 + math.cos(math.pi * step / steps)) if self.schedule == "cosine" else lr

    def ema_at(self, step: int) -> float:
        """Decay of the average after ``step`` steps: it looks back over at most a tenth of them."""
        return min(self.ema, (1 + step) / (10 + step))


@dataclass
class Position:
    """Where a run stands, and what the epoch under way adds up to so far."""

    epoch: int = 0  # epochs completed
    batch: int = 0  # batches done of the one under way
    step: int = 0
    best: float = math.inf  # held-out nats
    nats: float = 0.0  # over the images of the epoch under way
    images: int = 0
    seconds: float = 0.0


class Trainer:
    """A model in training: its optimiser, its average, and how far it is.

    Args:
        model: trained in place.
        nats: the objective: (model, values, labels) → (N,) nats per example, summed over dimensions.
        recipe: how to optimise.
        run: where checkpoints and metrics go; None keeps neither.
    """

    def __init__(self, model: nn.Module, nats: Nats, recipe: Recipe, run: Run | None = None) -> None:
        self.model = model
        self.nats = nats
        self.recipe = recipe
        self.run = run
        self.position = Position()
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
        self.average = AveragedModel(model, multi_avg_fn=self._average)
        self._watched: list[tuple[int, int, Tensor]] = []  # (step, images, [nats, gradient norm]) not yet looked at
        self._last_look = "there was no finite loss before it"

    @property
    def ema(self) -> Any:
        """The model with averaged weights."""
        return self.average.module

    def resume(self, name: str = "last") -> None:
        """Continue from a checkpoint of the run.

        Raises:
            CheckpointError: it cannot be read, or holds another model.
            ValueError: there is no run.
        """
        if self.run is None:
            raise ValueError("run: expected the run to resume, got None")
        loaded = checkpoint.load(self.run.checkpoints, name, with_state=True)
        loaded.restore(self.model, "model")
        loaded.restore(self.ema, "ema")
        self.optimizer.load_state_dict(loaded.state["optimizer"])
        self.average.n_averaged.fill_(loaded.state["averaged"])
        self.position = Position(**loaded.state["position"])
        _set_random_state(loaded.state["random"])
        self.run.rewind(self.position.epoch)

    def fit(self, train: Dataset, held_out: Dataset, on_epoch: Callable[[Record], None] | None = None) -> None:
        """Train for the epochs that are left, evaluating the average on ``held_out`` after each.

        Args:
            train: images to train on.
            held_out: images to evaluate on; the best epoch is chosen by them.
            on_epoch: called with what metrics.jsonl lists, when the checkpoint is written: whatever happens in it,
                the epoch is kept. A resumed run does not call it again.

        Raises:
            NonFiniteError: says in which step, and what came before it; the checkpoints are those from before it.
            CheckpointError: a checkpoint cannot be written.
        """
        here, recipe = self.position, self.recipe
        while here.epoch < recipe.epochs:
            self._train_epoch(train)
            held = evaluate(self.ema, self.nats, held_out, recipe.batch_size)
            if not math.isfinite(held.nats):
                raise NonFiniteError(f"step {here.step}: held-out loss is {held.nats} nats; {self._last_look}")
            record = {
                "epoch": here.epoch + 1,
                "step": here.step,
                "train_nats": here.nats / here.images,
                "held_out_nats": held.nats,
                "held_out_nats_error": held.nats_error,
                "held_out_bits_per_dim": held.bits_per_dim,
                "lr": self.optimizer.param_groups[0]["lr"],
                "seconds": round(here.seconds, 3),
                "images_per_second": round(here.images / here.seconds, 1),
            }
            is_best = held.nats < here.best
            here.epoch, here.batch, here.best = here.epoch + 1, 0, min(here.best, held.nats)
            here.nats, here.images, here.seconds = 0.0, 0, 0.0
            if self.run is not None:  # metrics first: resuming forgets a line too many, and cannot make up a lost one
                self.run.add_metrics(record)
                self._save(self.run, ("last", "best") if is_best else ("last",))
            if on_epoch is not None:
                on_epoch(record)

    def _train_epoch(self, train: Dataset) -> None:
        here, recipe = self.position, self.recipe
        device = next(self.model.parameters()).device
        batches = math.ceil(len(train) / recipe.batch_size)
        order = np.random.default_rng([recipe.seed, here.epoch]).permutation(len(train))
        left = order[here.batch * recipe.batch_size :]
        title = f"epoch {here.epoch + 1}/{recipe.epochs}"
        self.model.train()
        with require("tqdm").tqdm(
            total=batches, initial=here.batch, desc=title, unit="batch", leave=False, disable=None
        ) as bar:
            started = time.perf_counter()
            for values, labels in train.batches(recipe.batch_size, device, left):
                self._step(values, labels, batches * recipe.epochs)
                ends = here.batch == batches
                saves = self.run and recipe.save_every and here.step % recipe.save_every == 0 and not ends
                if device.type == "cpu" or len(self._watched) == SYNC_EVERY or saves or ends:
                    bar.set_postfix(nats=f"{self._look():.2f}", refresh=False)
                    now = time.perf_counter()
                    here.seconds, started = here.seconds + now - started, now
                bar.update()
                if self.run and saves:
                    self._save(self.run, ("last",))

    def _step(self, values: Tensor, labels: Tensor | None, steps: int) -> None:
        here, recipe = self.position, self.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.lr_at(here.step, steps)
        self.optimizer.zero_grad()
        nats = self.nats(self.model, values, labels).mean()
        (nats / values[0].numel()).backward()  # per dimension, so that a clip means the same at every image size
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip or math.inf)
        self.optimizer.step()
        here.step, here.batch = here.step + 1, here.batch + 1
        self.average.update_parameters(self.model)
        self._watched.append((here.step, len(values), torch.stack([nats.detach(), norm])))

    def _look(self) -> float:
        """Check and add up the losses since the last look; return the latest."""
        watched, self._watched = self._watched, []
        for step, images, (nats, norm) in ((step, n, pair.tolist()) for step, n, pair in watched):
            if not (math.isfinite(nats) and math.isfinite(norm)):
                raise NonFiniteError(
                    f"step {step} (epoch {self.position.epoch + 1}): loss {nats} nats, gradient norm {norm};"
                    f" {self._last_look}; try a smaller lr, a longer warmup or a smaller clip"
                )
            self._last_look = f"the last finite loss was {nats:.2f} nats in step {step}, gradient norm {norm:.3g}"
            self.position.nats += nats * images
            self.position.images += images
        return nats

    def _average(self, average: Tensors, current: Tensors, updates: Tensor | int) -> None:
        get_ema_multi_avg_fn(self.recipe.ema_at(self.position.step))(average, current, updates)

    def _save(self, run: Run, names: tuple[str, ...]) -> None:
        state = {
            "position": asdict(self.position),
            "averaged": int(self.average.n_averaged),
            "optimizer": self.optimizer.state_dict(),
            "random": _random_state(),
        }
        weights = {"model": self.model.state_dict(), "ema": self.ema.state_dict()}
        checkpoint.save(run.checkpoints, names, weights, state)


def _random_state() -> dict[str, Any]:
    numpy: Any = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": random.getstate(),
        "numpy": (numpy[0], numpy[1].tolist(), *numpy[2:]),
    }


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
