"""How to optimise: every option of the loop, checked; and what follows from it at a step."""

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from .._checks import check_flag, check_instance, check_integer, check_number, describe

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to optimise."""

    epochs: int = 20
    """Passes over the training images."""
    batch_size: int = 64
    """Images in a step, over all processes."""
    drop_last: bool = False
    """Leave out the last images of an epoch, others in each, where they fill no batch."""
    accumulate: int = 1
    """Parts that a process's images of a step are computed in, for memory's sake: the gradient is the same."""
    optimizer: Literal["adam", "adamw", "sgd", "rmsprop"] = "adamw"
    """What moves the weights."""
    lr: float = 1e-3
    """Learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the averages of the gradient and its square; sgd's momentum is the first, rmsprop's decay the second."""
    weight_decay: float = 0.0
    """Pull of the weights to zero, for data that is soon learnt by heart: decoupled in adamw, else of the gradient."""
    warmup: int = 0
    """Steps over which the learning rate rises to its value."""
    schedule: Literal["constant", "cosine", "linear", "step"] = "constant"
    """What the learning rate does then; cosine and linear fall to zero at the last step, step to a tenth at half of
    the steps and again at three quarters."""
    lr_decay: float = 1.0
    """What the learning rate is multiplied by at every step, beside its schedule."""
    average: Literal["ema", "polyak"] = "ema"
    """Which average of the weights is evaluated and sampled from: ema, the moving one, or polyak, the arithmetic mean
    of those after every step since --average-from, whatever --ema says."""
    ema: float = 0.999
    """Decay of the moving average of the weights; 0 turns it off."""
    average_from: float = 0.0
    """Epochs, or a part of one, before the mean of polyak begins; until then the weights themselves are taken."""
    clip: float = 1.0
    """Largest norm of the gradient, of nats per dimension where a loss is in nats; 0 turns clipping off."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of products and convolutions in training, by autocast; weights and evaluation stay in float32."""
    channels_last: bool = False
    """Keep colours innermost in memory, which convolutions in half precision like."""
    sync_batch_norm: bool = True
    """Where several processes train, take batch norm's statistics from the whole batch, as one process would."""
    compile: bool = False
    """Compile the losses with torch.compile; the first steps then take a minute."""
    flip: bool = False
    """Mirror training images left to right at random, anew in each epoch; held-out images, and so all numbers of them,
    are of the images as they are."""
    deterministic: bool = False
    """Refuse operations that may differ from run to run; slower on a GPU."""
    seed: int = 0
    """Of weights, data order and samples."""
    save_every: int = 0
    """Steps between checkpoints inside an epoch; 0 saves at the end of each epoch only."""
    patience: int = 0
    """Stop early, once so many epochs in a row were no better on the held-out images; 0 trains for all epochs."""
    max_minutes: float = 0.0
    """Stop after the step under way when so many minutes have passed, saved, to be resumed; 0 sets no limit."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "warmup", "seed", "save_every", "patience"):
            object.__setattr__(self, name, check_integer(name, getattr(self, name)))
        for name in ("lr", "lr_decay", "weight_decay", "ema", "average_from", "clip", "max_minutes"):
            object.__setattr__(self, name, check_number(name, getattr(self, name)))
        for name in ("drop_last", "channels_last", "sync_batch_norm", "compile", "flip", "deterministic"):
            check_flag(name, getattr(self, name))
        for name in ("optimizer", "schedule", "precision", "average"):
            check_instance(name, getattr(self, name), str, "a word")
        check_instance("betas", self.betas, (tuple, list), "two numbers")
        betas = tuple(check_number(f"betas[{index}]", beta) for index, beta in enumerate(self.betas))
        object.__setattr__(self, "betas", betas)  # JSON knows lists only
        checks = {
            "epochs": (self.epochs >= 0, "0 or more"),
            "batch_size": (self.batch_size >= 1, "1 or more"),
            "accumulate": (self.accumulate >= 1, "1 or more"),
            "optimizer": (self.optimizer in ("adam", "adamw", "sgd", "rmsprop"), "adam, adamw, sgd or rmsprop"),
            "lr": (0 < self.lr < math.inf, "a positive number"),
            "betas": (len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas), "two in [0, 1)"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "0 or more, finite"),
            "warmup": (self.warmup >= 0, "0 or more"),
            "schedule": (
                self.schedule in ("constant", "cosine", "linear", "step"),
                "constant, cosine, linear or step",
            ),
            "lr_decay": (0 < self.lr_decay <= 1, "above 0, at most 1"),
            "average": (self.average in ("ema", "polyak"), "ema or polyak"),
            "ema": (0 <= self.ema < 1, "0 or more, below 1"),
            "average_from": (0 <= self.average_from < math.inf, "0 or more, finite"),
            "clip": (0 <= self.clip < math.inf, "0 or more, finite"),
            "precision": (self.precision in PRECISIONS, "float32, bfloat16 or float16"),
            "seed": (0 <= self.seed < 2**63, "0 or more, below 2**63"),
            "save_every": (self.save_every >= 0, "0 or more"),
            "patience": (self.patience >= 0, "0 or more"),
            "max_minutes": (0 <= self.max_minutes < math.inf, "0 or more, finite"),
        }
        for name, (holds, expected) in checks.items():
            if not holds:
                raise ValueError(f"{name}: expected {expected}, got {describe(getattr(self, name))}")
        if self.average_from and self.average != "polyak":
            raise ValueError(f"average_from: expected 0 with the average {self.average}, got {self.average_from:g}")
        if self.average_from and self.average_from >= self.epochs:
            raise ValueError(f"average_from: expected less than the {self.epochs} epochs, got {self.average_from:g}")

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """The precision of training on ``device``, as a context."""
        return nullcontext() if self.precision == "float32" else torch.autocast(device.type, PRECISIONS[self.precision])

    def mirrored(self, epoch: int, n: int) -> np.ndarray | None:
        """Which of ``n`` training images are mirrored in epoch ``epoch`` (from 0), bool (N,); None if none ever is."""
        check_integer("epoch", epoch, 0)
        check_integer("n", n, 0)
        return np.random.default_rng([self.seed, epoch, 1]).random(n) < 0.5 if self.flip else None

    def batches(self, images: int) -> int:
        """Steps of an epoch of so many images.

        Raises:
            ValueError: there would be none.
        """
        if self.drop_last and images < self.batch_size:
            raise ValueError(
                f"batch_size: expected at most {images}, the images, with drop_last, got {self.batch_size}"
            )
        return images // self.batch_size if self.drop_last else math.ceil(images / self.batch_size)

    def lr_factor(self, step: int, steps: int) -> float:
        """What learning rates are multiplied by at step ``step`` (from 0) of ``steps``."""
        check_integer("step", step, 0)
        check_integer("steps", steps, 1)
        shape = {
            "constant": 1.0,
            "cosine": 0.5 * (1 + math.cos(math.pi * step / steps)),
            "linear": 1 - step / steps,
            "step": 0.1 ** ((step >= 0.5 * steps) + (step >= 0.75 * steps)),
        }
        return min(1.0, (step + 1) / (self.warmup + 1)) * shape[self.schedule] * self.lr_decay**step

    @property
    def averages(self) -> bool:
        """Whether an average of the weights is kept."""
        return self.average == "polyak" or self.ema > 0

    def average_at(self, step: int, batches: int) -> float:
        """Decay of the average after ``step`` steps, of which an epoch has ``batches``.

        That of the mean of k weights is (k − 1) / k: Polyak and Juditsky 1992, SIAM J. Control Optim. 30(4).
        """
        if self.average == "ema":
            return self.ema_at(step)
        check_integer("step", step, 0)
        averaged = step - round(self.average_from * check_integer("batches", batches, 1))
        return (averaged - 1) / averaged if averaged > 1 else 0.0

    def ema_at(self, step: int) -> float:
        """Decay of the moving average after ``step`` steps: it looks back over at most a tenth of them."""
        check_integer("step", step, 0)
        return min(self.ema, (1 + step) / (10 + step))

    def make_optimizer(self, parameters: Iterable[nn.Parameter], lr: float | None = None) -> torch.optim.Optimizer:
        """The optimiser of ``parameters``, at ``lr`` or else the recipe's."""
        if lr is not None:
            lr = check_number("lr", lr, 0)
        parameters = list(check_instance("parameters", parameters, Iterable, "parameters"))
        if not parameters:
            raise ValueError("parameters: expected one or more, got none")
        for parameter in parameters:
            check_instance("parameters", parameter, Tensor, "parameters")
        first, second = self.betas
        kinds: dict[str, tuple[Any, dict[str, Any]]] = {
            "adam": (torch.optim.Adam, {"betas": self.betas, "fused": True}),
            "adamw": (torch.optim.AdamW, {"betas": self.betas, "fused": True}),
            "sgd": (torch.optim.SGD, {"momentum": first, "fused": True}),
            "rmsprop": (torch.optim.RMSprop, {"alpha": second}),
        }
        kind, options = kinds[self.optimizer]
        return kind(parameters, lr=self.lr if lr is None else lr, weight_decay=self.weight_decay, **options)
