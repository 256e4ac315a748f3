"""Whole steps of whole models: fastgen's, the same in plain torch, and that under torch.compile.

    python benchmarks/bench_models.py [--device cuda] [--threads 2] [--quick] [--output FILE.json]

A training step is forward, loss, backward and Adam; an eval step is the forward, in eval mode, without gradients. All
contenders begin with the same weights. Parity is checked on the outputs of the eval step and on the gradients of the
training step, all of them as one vector. No floor: it would be that of the slowest way to write the model.
"""

import copy
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases import DTYPES, Contest, Moved, assert_parity
from fastgen.models import GatedPixelCNN, PixelCNN
from fastgen.nn import GaussianRSample
from harness import Bench, Contests, alone
from plain import VAE, HandWritten, Reference, generator, plain

fuse = getattr(importlib.import_module("fastgen"), "fuse", None)
TRAINING, EVAL = "training step", "eval step"


@dataclass(frozen=True)
class Task:
    """A model in two forms, and what it is trained on.

    Attributes:
        name: for tables.
        shape: of the main input.
        models: makes fastgen's model and the same in plain torch, on the CPU.
        batch: makes the inputs of the model and, last, the target, on the CPU.
        loss: of the model's result and the target.
        repeatable: makes two models to check parity on, where those of ``models`` draw noise of their own, or have so
            many kinks that rounding decides on which side of some they are.
        by_parameter: whether each parameter's gradient is judged in units of its own largest number, not of all.
        compiled: whether torch.compile takes part, which unrolls loops for many minutes.
    """

    name: str
    shape: tuple[int, ...]
    models: Callable[[], tuple[nn.Module, nn.Module]]
    batch: Callable[[], tuple[Tensor, ...]]
    loss: Callable[[Any, Tensor], Tensor]
    repeatable: Callable[[], tuple[nn.Module, nn.Module]] | None = None
    by_parameter: bool = False
    compiled: bool = True

    def contests(self, bench: Bench) -> Iterator[Contest]:
        """An eval and a training step in every dtype of the device."""
        for dtype in bench.dtypes:
            for way in (EVAL, TRAINING):
                yield Contest(
                    self.name, way, self.shape, dtype, self._contenders(bench, dtype, way),
                    gate=lambda dtype=dtype, way=way: self._gate(bench.device, dtype, way),  # type: ignore[misc]
                    headline=way == TRAINING and dtype == DTYPES[bench.device][0],
                )  # fmt: skip

    def _contenders(self, bench: Bench, dtype: torch.dtype, way: str) -> dict[str, Callable[[], Callable[[], Any]]]:
        def maker(plain: bool, **options: Any) -> Callable[[], Callable[[], Any]]:
            return lambda: self._step(self._made(self.models, bench.device, dtype)[plain], bench.device, way, options)

        contenders = {"fastgen": maker(plain=False), "eager": maker(plain=True)}
        if not bench.quick and self.compiled:
            contenders["torch.compile"] = maker(plain=True, mode="default")
            contenders["fastgen, torch.compile"] = maker(plain=False, mode="default")
        if not bench.quick and self.compiled and bench.device == "cuda":
            contenders["torch.compile, reduce-overhead"] = maker(plain=True, mode="reduce-overhead")
        return contenders

    def _made(self, make: Callable[[], Any], device: str, dtype: torch.dtype) -> list[nn.Module]:
        torch.manual_seed(0)
        return [model.to(device, dtype) for model in make()]

    def _batch(self, device: str, dtype: torch.dtype) -> list[Tensor]:
        torch.manual_seed(1)
        return [t.to(device, dtype) for t in self.batch()]

    def _step(self, model: nn.Module, device: str, way: str, options: dict[str, Any]) -> Callable[[], Any]:
        *inputs, target = self._batch(device, next(model.parameters()).dtype)
        model.train(way == TRAINING)
        call = torch.compile(model, **options) if options else model
        if way == EVAL:
            return torch.no_grad()(lambda: call(*inputs))
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-5)

        def step() -> Tensor:
            optimiser.zero_grad()
            loss = self.loss(call(*inputs), target)
            loss.backward()
            optimiser.step()
            return loss.detach()

        return step

    def _gate(self, device: str, dtype: torch.dtype, way: str) -> None:
        ours, plain = self._made(self.repeatable or self.models, device, dtype)
        exact = copy.deepcopy(plain).double()
        units = torch.ones(())
        if self.by_parameter and way == TRAINING:
            parts = self._seen(exact, device, way).split([parameter.numel() for parameter in exact.parameters()])
            units = torch.cat([part.abs().max().expand_as(part) for part in parts])

        def seen(model: nn.Module) -> Tensor:
            found = self._seen(model, device, way)
            return found / units.to(found)

        assert_parity(*map(seen, (ours, plain, exact)), Moved(lambda: [seen(exact)], dtype)[0])

    def _seen(self, model: nn.Module, device: str, way: str) -> Tensor:
        """What parity is checked on, as one vector."""
        parameters = list(model.parameters())
        *inputs, target = self._batch(device, next(p.dtype for p in parameters))
        model.train(way == TRAINING)
        torch.manual_seed(2)
        if way == EVAL:
            with torch.no_grad():
                results = model(*inputs)
            results = results if isinstance(results, tuple) else (results,)
        else:
            results = torch.autograd.grad(self.loss(model(*inputs), target), parameters)
        return torch.cat([result.flatten().to(parameters[0].dtype) for result in results])


def autoregressive(name: str, make: Callable[[], nn.Module], N: int, H: int) -> Task:
    def models() -> tuple[nn.Module, nn.Module]:
        model = make()
        return model, plain(model)

    def batch() -> tuple[Tensor, Tensor]:
        values = torch.randint(2, (N, 1, H, H)).float()
        return 2 * values - 1, values

    return Task(name, (N, 1, H, H), models, batch, F.binary_cross_entropy_with_logits)


def vae(N: int, pixels: int, hidden: int, latents: int) -> Task:
    def pair(sampler: nn.Module) -> tuple[nn.Module, nn.Module]:
        model = VAE(GaussianRSample(), pixels, hidden, latents)
        other = copy.deepcopy(model)
        other.sampler = sampler
        return model, other

    def batch() -> tuple[Tensor, Tensor]:
        x = torch.rand(N, pixels)
        return x, x

    def loss(result: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        logits, kl = result
        return (F.binary_cross_entropy_with_logits(logits, target, reduction="sum") + kl.sum()) / N

    name = f"VAE, {pixels}-{hidden}-{latents}"
    return Task(name, (N, pixels), lambda: pair(HandWritten()), batch, loss, lambda: pair(Reference()))


def dcgan(N: int, latents: int, channels: int, size: int) -> Task:
    def models() -> tuple[nn.Module, nn.Module]:
        model = generator(latents, channels, size)
        fused = copy.deepcopy(model)
        fuse(fused)
        return fused, model

    def batch() -> tuple[Tensor, Tensor]:
        return torch.randn(N, latents, 1, 1), torch.rand(N, 3, size, size)

    def far_from_kinks() -> tuple[nn.Module, nn.Module]:
        """Each channel is on one side of its ReLU, none of whose millions of arguments is then as near to zero as it is
        rounded: there an implementation may be on either side, and its gradients off by all that arrives.
        """
        pair = models()
        for bn in (each for model in pair for each in model.modules() if isinstance(each, nn.BatchNorm2d)):
            nn.init.constant_(bn.weight, 0.5)
            with torch.no_grad():
                bn.bias.copy_(torch.tensor([4.0, -4.0]).repeat(bn.num_features)[: bn.num_features])
        return pair

    name = f"DCGAN generator, {size}x{size}, {channels} channels"
    return Task(name, (N, latents, 1, 1), models, batch, F.mse_loss, far_from_kinks, True)


def tasks(device: str, quick: bool = False) -> list[Task]:
    """The suite; without the generator where this fastgen cannot fuse one."""
    N = 64 if device == "cuda" else 16
    if quick:
        found = [autoregressive("PixelCNN", lambda: PixelCNN(channels=4, layers=1), 2, 8), vae(4, 12, 8, 3)]
        found.append(autoregressive("Gated PixelCNN", lambda: GatedPixelCNN(channels=4, layers=1), 2, 8))
        sizes = ((2, 4, 2, 16),)
    else:
        found = [autoregressive("PixelCNN, 0.4 M weights", PixelCNN, N, 28), vae(128, 784, 400, 20)]
        found.append(autoregressive("Gated PixelCNN, 5.8 M weights", GatedPixelCNN, N, 28))
        sizes = ((128, 100, 64, 64), (16, 100, 64, 64)) if device == "cuda" else ((64, 100, 64, 64), (16, 100, 64, 64))
    return found + [dcgan(*size) for size in sizes if fuse is not None]


def cases(device: str, quick: bool = False) -> list[Contests]:
    return [Contests(f"{task.name}, {task.shape[0]} at a time", task.contests) for task in tasks(device, quick)]


if __name__ == "__main__":
    alone(__doc__, "models", cases)
