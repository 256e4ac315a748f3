"""Whole steps of whole models: fastgen's, the same in plain torch, and that under torch.compile.

    python benchmarks/bench_models.py [--device cuda] [--threads 2] [--quick] [--output FILE.json]

A training step is forward, loss, backward and Adam, fused as fastgen trains; an eval step is the forward, in eval mode,
without gradients. All contenders begin with the same weights. Parity is checked on the outputs of the eval step and on
the gradients of the training step, all of them as one vector. No floor: it would be that of the slowest way to write
the model.

"as published" is the training step as the best-known code has it: losses of real and fake images one after the other,
``.item()`` of each, sigmoid and binary cross-entropy summed. ``--tuned`` lets torch.compile try its kernels for
minutes, and use the fastest. What is compiled is the model; "with its loss", one function of both.
"""

import copy
import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases import DTYPES, Contest, Moved, assert_parity
from fastgen.distributions import DiscretizedLogisticMixture
from fastgen.models import GatedPixelCNN, PixelCNN, PixelCNNPP
from fastgen.models.autoregressive import AutoregressiveModel
from fastgen.nn import GaussianRSample
from fastgen.ops import binary_cross_entropy
from harness import Bench, Contests, alone
from plain import (
    VAE,
    HandWritten,
    RealAndFake,
    Reference,
    connected,
    convolutional,
    discriminator,
    generator,
    plain,
)

fuse = getattr(importlib.import_module("fastgen"), "fuse", None)
TRAINING, EVAL = "training step", "eval step"
#: Of contenders: torch.compile sees the loss, too, and not the model alone.
WHOLE = "with its loss"


def lowered(device: str, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """``torch.autocast`` to a dtype that is not float32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device, dtype)


@dataclass(frozen=True)
class Task:
    """A model in two forms, and what it is trained on.

    Attributes:
        name: for tables.
        shape: of the main input.
        models: makes fastgen's model and the same in plain torch, on the CPU.
        batch: makes the inputs of the model and, last, the target, on the CPU.
        loss: of the model's result and the target.
        plain_loss: the same in plain torch, of the plain model; None: ``loss`` is.
        repeatable: makes two models to check parity on, where those of ``models`` draw noise of their own, or have so
            many kinks that rounding decides on which side of some they are.
        by_parameter: whether each parameter's gradient is judged in units of its own largest number, not of all.
        compiled: whether torch.compile takes part, which unrolls loops for many minutes.
        published: losses of the plain model and a batch, each of which the best-known code computes, backpropagates and
            reads as a number before it goes on; None where that is what the others do.
    """

    name: str
    shape: tuple[int, ...]
    models: Callable[[], tuple[nn.Module, nn.Module]]
    batch: Callable[[], tuple[Tensor, ...]]
    loss: Callable[[Any, Tensor], Tensor]
    plain_loss: Callable[[Any, Tensor], Tensor] | None = None
    repeatable: Callable[[], tuple[nn.Module, nn.Module]] | None = None
    by_parameter: bool = False
    compiled: bool = True
    published: Callable[..., Iterator[Tensor]] | None = None

    def contests(self, bench: Bench) -> Iterator[Contest]:
        """An eval and a training step in every dtype: parameters are float32, and ``torch.autocast`` lowers others."""
        for dtype in bench.dtypes:
            for way in (EVAL, TRAINING):
                yield Contest(
                    self.name, way, self.shape, dtype, self._contenders(bench, dtype, way),
                    gate=lambda dtype=dtype, way=way: self._gate(bench.device, dtype, way),  # type: ignore[misc]
                    headline=way == TRAINING and dtype == DTYPES[bench.device][0],
                )  # fmt: skip

    def _contenders(self, bench: Bench, dtype: torch.dtype, way: str) -> dict[str, Callable[[], Callable[[], Any]]]:
        def maker(
            plain: bool, last: bool = False, whole: bool = False, **options: Any
        ) -> Callable[[], Callable[[], Any]]:
            return lambda: self._step(plain, bench.device, way, dtype, options, last, whole)

        images = len(self.shape) == 4  # which can be laid out in two ways
        contenders = {"fastgen": maker(plain=False), "eager": maker(plain=True)}
        if images:
            contenders["fastgen, channels_last"] = maker(plain=False, last=True)
            contenders["eager, channels_last"] = maker(plain=True, last=True)
        if self.published is not None and way == TRAINING and dtype == torch.float32:
            contenders["as published"] = lambda: self._as_published(bench.device)
        if bench.quick or not self.compiled:
            return contenders
        modes = ["default"]
        if bench.device == "cuda":
            modes.append("reduce-overhead")
        if bench.tuned:
            modes.append("max-autotune")
        for mode in modes:
            name = "torch.compile" if mode == "default" else f"torch.compile, {mode}"
            contenders[name] = maker(plain=True, mode=mode)
            if images:
                contenders[f"{name}, channels_last"] = maker(plain=True, last=True, mode=mode)
        contenders["fastgen, torch.compile"] = maker(plain=False, mode="default")
        if way == TRAINING:
            contenders[f"torch.compile, {WHOLE}"] = maker(plain=True, whole=True, mode="default")
            if images:
                contenders[f"torch.compile, {WHOLE}, channels_last"] = maker(True, True, whole=True, mode="default")
            contenders[f"fastgen, torch.compile, {WHOLE}"] = maker(plain=False, whole=True, mode="default")
        return contenders

    def _made(self, make: Callable[[], Any], device: str) -> list[nn.Module]:
        torch.manual_seed(0)
        return [model.to(device) for model in make()]

    def _batch(self, device: str, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        torch.manual_seed(1)
        return [t.to(device, dtype) for t in self.batch()]

    def _step(
        self, plain: bool, device: str, way: str, dtype: torch.dtype, options: dict[str, Any], last: bool = False,
        whole: bool = False,
    ) -> Callable[[], Any]:  # fmt: skip
        """A step. ``options``: of torch.compile, if it takes part: of the model, or ``whole``, of its loss as well."""
        model, loss_of = self._made(self.models, device)[plain], self._loss(plain)
        *inputs, target = self._batch(device)
        if last:
            model = model.to(memory_format=torch.channels_last)
            inputs = [t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in inputs]
        model.train(way == TRAINING)
        call = torch.compile(model, **options) if options and not whole else model

        def loss_at(*batch: Tensor) -> Tensor:
            return loss_of(call(*batch[:-1]), batch[-1])

        loss_at = torch.compile(loss_at, **options) if whole else loss_at

        def evaluate() -> Any:
            with torch.no_grad(), lowered(device, dtype):
                return call(*inputs)

        if way == EVAL:
            return evaluate
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-5, fused=True)

        def step() -> Tensor:
            optimiser.zero_grad()
            with lowered(device, dtype):
                loss = loss_at(*inputs, target)
            loss.backward()
            optimiser.step()
            return loss.detach()

        return step

    def _loss(self, plain: bool) -> Callable[[Any, Tensor], Tensor]:
        return self.plain_loss if plain and self.plain_loss is not None else self.loss

    def _as_published(self, device: str) -> Callable[[], Any]:
        assert self.published is not None
        losses, batch = self.published, self._batch(device)
        model = self._made(self.models, device)[1].train()
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-5)

        def step() -> float:
            optimiser.zero_grad()
            total = 0.0
            for loss in losses(model, *batch):
                loss.backward()
                total += loss.item()
            optimiser.step()
            return total

        return step

    def _gate(self, device: str, dtype: torch.dtype, way: str) -> None:
        ours, plain = self._made(self.repeatable or self.models, device)
        exact = copy.deepcopy(plain).double()
        units = torch.ones(())
        if self.by_parameter and way == TRAINING:
            parts = self._seen(exact, True, device, way).split([parameter.numel() for parameter in exact.parameters()])
            units = torch.cat([part.abs().max().expand_as(part) for part in parts])

        def seen(model: nn.Module, lower: torch.dtype = torch.float32) -> Tensor:
            found = self._seen(model, model is not ours, device, way, lower)
            return found / units.to(found)

        moved = Moved(lambda: [seen(exact)], dtype)[0]
        assert_parity(seen(ours, dtype).to(dtype), seen(plain, dtype).to(dtype), seen(exact), moved)

    def _seen(self, model: nn.Module, plain: bool, device: str, way: str, dtype: torch.dtype = torch.float32) -> Tensor:
        """What parity is checked on, as one vector."""
        parameters = list(model.parameters())
        *inputs, target = self._batch(device, parameters[0].dtype)
        model.train(way == TRAINING)
        torch.manual_seed(2)
        with torch.set_grad_enabled(way == TRAINING), lowered(device, dtype):
            results = model(*inputs)
            loss = self._loss(plain)(results, target) if way == TRAINING else None
        if loss is not None:
            results = torch.autograd.grad(loss, parameters)
        results = results if isinstance(results, tuple) else (results,)
        return torch.cat([result.flatten().to(parameters[0].dtype) for result in results])


def autoregressive(name: str, make: Callable[[], AutoregressiveModel], shape: tuple[int, ...]) -> Task:
    def models() -> tuple[nn.Module, nn.Module]:
        model = make()
        if hasattr(model, "begin_training"):
            model.begin_training(torch.randint(levels, (4, *shape[1:])))
        return model, plain(model)

    levels, distribution = make().levels, make().distribution

    def batch() -> tuple[Tensor, Tensor]:
        values = torch.randint(levels, shape).float()
        return 2 * values / (levels - 1) - 1, values

    def loss(params: Tensor, values: Tensor) -> Tensor:
        if levels == 2:
            return F.binary_cross_entropy_with_logits(params, values)
        return -distribution.log_prob(params, values.long()).mean()

    def plain_loss(params: Tensor, values: Tensor) -> Tensor:
        if levels == 2 or isinstance(distribution, DiscretizedLogisticMixture):
            return loss(params, values)
        return F.cross_entropy(params.unflatten(1, (-1, levels)).transpose(1, 2), values.long())

    return Task(name, shape, models, batch, loss, plain_loss)


def vae(name: str, networks: Callable[[], tuple[nn.Module, nn.Module]], *shape: int) -> Task:
    def pair(sampler: nn.Module) -> tuple[nn.Module, nn.Module]:
        other = VAE(sampler, *networks())
        model = copy.deepcopy(other)
        model.sampler = GaussianRSample()
        if fuse is not None:
            fuse(model)
        return model, other

    def batch() -> tuple[Tensor, Tensor]:
        x = torch.rand(*shape)
        return x, x

    def loss(result: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        logits, kl = result
        return (binary_cross_entropy(logits, target) + kl).sum() / len(target)

    def plain_loss(result: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        logits, kl = result
        return (F.binary_cross_entropy_with_logits(logits, target, reduction="sum") + kl.sum()) / len(target)

    def published(model: nn.Module, x: Tensor, target: Tensor) -> Iterator[Tensor]:
        logits, kl = model(x)
        yield F.binary_cross_entropy(torch.sigmoid(logits), target, reduction="sum") + kl.sum()

    return Task(
        name, shape, lambda: pair(HandWritten()), batch, loss, plain_loss, repeatable=lambda: pair(Reference()),
        published=published,
    )  # fmt: skip


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
    return Task(
        name, (N, latents, 1, 1), models, batch, F.mse_loss, repeatable=far_from_kinks, by_parameter=True
    )  # fmt: skip


def judge(N: int, channels: int, size: int) -> Task:
    """A discriminator's step, on real images and on those of the generator, whose gradient it does not ask for."""

    def models() -> tuple[nn.Module, nn.Module]:
        network = discriminator(channels, size)
        fused = copy.deepcopy(network)
        fuse(fused)
        return RealAndFake(fused), RealAndFake(network)

    def batch() -> tuple[Tensor, ...]:
        return torch.rand(N, 3, size, size) * 2 - 1, torch.rand(N, 3, size, size) * 2 - 1, torch.ones(N, 1, 1, 1)

    def loss(result: tuple[Tensor, Tensor], ones: Tensor) -> Tensor:
        real, fake = result
        return F.binary_cross_entropy_with_logits(real, ones) + F.binary_cross_entropy_with_logits(fake, 1 - ones)

    def published(model: nn.Module, real: Tensor, fake: Tensor, ones: Tensor) -> Iterator[Tensor]:
        yield F.binary_cross_entropy(torch.sigmoid(model.network(real)), ones)
        yield F.binary_cross_entropy(torch.sigmoid(model.network(fake.detach())), torch.zeros_like(ones))

    name = f"DCGAN discriminator, {size}x{size}, {channels} channels"
    return Task(name, (N, 3, size, size), models, batch, loss, by_parameter=True, published=published)


def tasks(device: str, quick: bool = False) -> list[Task]:
    """The suite; without what is fused where this fastgen cannot fuse."""
    if quick:
        found = [
            autoregressive("PixelCNN", lambda: PixelCNN(channels=4, layers=1), (2, 1, 8, 8)),
            vae("VAE", lambda: connected(12, 8, 3), 4, 12),
            autoregressive("Gated PixelCNN", lambda: GatedPixelCNN(channels=4, layers=1), (2, 1, 8, 8)),
            autoregressive("PixelCNN++", lambda: PixelCNNPP(1, channels=4, blocks=1, dropout=0.0), (2, 1, 8, 8)),
        ]
        fused = [vae("VAE, convolutional", lambda: convolutional(2, 3, 8), 4, 1, 8, 8), dcgan(2, 4, 2, 16)]
        return found if fuse is None else [*found, *fused, judge(2, 2, 16)]
    found = []
    plus = partial(PixelCNNPP, 1, channels=32, blocks=1, resolutions=1, dropout=0.0, image_size=28)
    for N in (16, 128):
        found += [
            autoregressive("PixelCNN, 0.1 M weights", partial(PixelCNN, channels=32), (N, 1, 28, 28)),
            autoregressive("PixelCNN, 0.4 M weights", PixelCNN, (N, 1, 28, 28)),
            vae("VAE, 784-400-20", lambda: connected(784, 400, 20), N, 784),
            autoregressive("Gated PixelCNN, 5.8 M weights", GatedPixelCNN, (N, 1, 28, 28)),
            autoregressive("PixelCNN++, 0.1 M weights", plus, (N, 1, 28, 28)),
            autoregressive("PixelCNN of RGB, 0.4 M weights", partial(PixelCNN, 3, 256, 63), (N, 3, 32, 32)),
        ]
        if fuse is not None:
            found.append(vae("VAE, convolutional", lambda: convolutional(32, 20, 28), N, 1, 28, 28))
            found += [dcgan(N, 100, 64, 64), judge(N, 64, 64)]
    return found


def cases(device: str, quick: bool = False) -> list[Contests]:
    return [Contests(f"{task.name}, {task.shape[0]} at a time", task.contests) for task in tasks(device, quick)]


if __name__ == "__main__":
    alone(__doc__, "models", cases)
