"""Modules that draw z ~ N(μ, σ²) and give its KL divergence, run as ``fastgen.ops.rsample_kl``.

A candidate has no parameters, takes (mu, logvar) and returns z, or z and the KL of each example. The forward of a copy
is tried with noise put in its generator's place, in float64, and held against the formula, gradients too. It may only
use ops that are smooth functions of single elements, sums, and clamps, so that agreement at many values is agreement.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..nn import GaussianRSample
from ..ops._dtypes import FLOATING
from ..ops.rsample_kl import LOGVAR_MAX, LOGVAR_MIN
from . import worth
from .attribute_reads import Reads, Seen, frozen_reads, unchanged, watching
from .op_recorder import NotProvenError, Recorded, Recorder, probe_copy
from .questions import Questions
from .swap import Fused

_SMOOTH = {
    f"aten.{name}"
    for name in (
        "add", "sub", "rsub", "mul", "div", "neg", "exp", "exp2", "expm1", "pow", "square", "sqrt", "log", "addcmul",
        "sum", "clamp", "clamp_min", "clamp_max", "clone", "_to_copy", "expand", "view", "_unsafe_view", "unsqueeze",
        "ones_like", "zeros_like", "empty_like", "empty", "new_empty", "zeros", "ones", "full_like", "scalar_tensor",
    )
}  # fmt: skip
#: How far float64 sums in another order may be apart, relative to the sum of the sizes of their terms.
_ROUNDING = 1e-12
_Answer = tuple[bool, torch.dtype | None, Reads]
_Run = tuple[Recorder, Seen, list[Tensor], Any]
_FORMULA = "mu + exp(logvar / 2)·noise and KL(N(mu, exp(logvar)) ‖ N(0, 1)) of each example"
_SAMPLE = GaussianRSample()


@dataclass(frozen=True)
class SampleSpec:
    """Whether the module returns the KL; in which modes (training or not) and for how many dimensions it is proven.

    ``dtype``: the one that it is proven for, where noise of that dtype would change that of z; or None. ``reads``: what
    its attributes have to be.
    """

    kl: bool
    dtype: torch.dtype | None
    reads: Reads
    modes: tuple[bool, ...]
    dims: tuple[int, ...]

    def __str__(self) -> str:
        return "rsample_kl" + ("" if self.kl else ", z alone")

    @property
    def note(self) -> str:
        text = f"other random numbers from the same seed; logvar counts as in [{LOGVAR_MIN:g}, {LOGVAR_MAX:g}]"
        if self.modes == (True, False):
            return text
        return text + f"; when {'training' if self.modes == (False,) else 'not training'} its own forward runs"


class FusedRSample(Fused):
    """Runs as ``fastgen.ops.rsample_kl`` where that was proven, else as its own forward."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        spec: SampleSpec = self._fastgen_spec
        if kwargs or not holds(spec, self, args):
            return super().forward(*args, **kwargs)
        return draw(spec, *args)


def holds(spec: SampleSpec, module: nn.Module, args: Sequence[Any]) -> bool:
    """Whether it pays, and what was proven is so for this call: the mode, (mu, logvar), and what was read."""
    if len(args) != 2 or module.training not in spec.modes:
        return False
    return (
        _fit(args[0], args[1], spec) and worth.pays_drawn(args[0], args[1], spec.kl) and unchanged(module, spec.reads)
    )


def draw(spec: SampleSpec, mu: Tensor, logvar: Tensor) -> Any:
    """z, or z and the KL divergence of each example."""
    z, kl = _SAMPLE.forward(mu, logvar)
    if not spec.kl:
        return z
    return z, kl if torch.is_autocast_enabled(mu.device.type) else kl.to(mu.dtype)


def _fit(mu: Any, logvar: Any, spec: SampleSpec) -> bool:
    if not (isinstance(mu, Tensor) and isinstance(logvar, Tensor)) or mu.dim() not in spec.dims:
        return False
    return (
        mu.shape == logvar.shape
        and mu.dtype == logvar.dtype
        and mu.dtype in FLOATING
        and spec.dtype in (None, mu.dtype)
    )


def looks_like_sampling(module: nn.Module) -> bool:
    """Whether it is worth a trial: no parameters, buffers or modules, and a forward of two arguments."""
    if type(module).__module__.startswith(("torch.", "fastgen.")):
        return False
    if next(module.parameters(), None) is not None or next(module.buffers(), None) is not None:
        return False
    if next(module.children(), None) is not None:
        return False
    try:
        parameters = inspect.signature(type(module).forward).parameters.values()
    except (TypeError, ValueError):
        return False
    required = [p for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    return len(required) == 3


def prove(module: nn.Module) -> SampleSpec | None:
    """What of rsample_kl ``module`` computes; None if it draws nothing, and so was never meant to.

    Raises:
        NotProvenError: says why it could not be shown to be that.
    """
    return prove_method(probe_copy(module), "forward")


def prove_method(twin: nn.Module, method: str) -> SampleSpec | None:
    """As ``prove``, for a method of a module that nobody else has."""
    proven: dict[bool, list[tuple[int, _Answer]]] = {}
    reasons, drawn = [], False
    for training in (True, False):
        twin.train(training)
        for dims, shapes in ((2, ((8, 5), (96, 1), (1, 7))), (4, ((3, 2, 4, 5), (96, 1, 1, 1)))):
            try:
                answers = [_trial(twin, method, shape, seed) for seed, shape in enumerate(shapes)]
                drawn = True
            except _DrawsNothingError as error:
                reasons.append(str(error))
                continue
            except NotProvenError as error:
                drawn = True
                reasons.append(str(error))
                continue
            if len(set(answers)) == 1:
                _check_dtypes(twin, method, shapes[0], answers[0][1])
                proven.setdefault(training, []).append((dims, answers[0]))
    if not drawn:
        return None
    results = {tuple(result) for result in proven.values()}
    if len(results) != 1:
        raise NotProvenError(reasons[0] if reasons else "it computes something else in training than in evaluation")
    (cases,) = results
    if len({answer for _, answer in cases}) != 1:
        raise NotProvenError("what it returns depends on the number of dimensions")
    return SampleSpec(*cases[0][1], tuple(proven), tuple(dims for dims, _ in cases))


def _check_dtypes(twin: nn.Module, method: str, shape: tuple[int, ...], alone: torch.dtype | None) -> None:
    """In every dtype the same ops run, and its results have it, or in the one that anything is proven for alone.

    What a conversion did in one of them it does not do in another.
    """
    ran = set()
    for dtype in FLOATING:
        mu, logvar = (torch.ones(shape, dtype=dtype, device="cpu").requires_grad_() for _ in range(2))
        recorder, _, _, result = _run(twin, method, mu, logvar, torch.Generator().manual_seed(0))
        given = {each.dtype for each in (result if _is_pair(result) else (result,))}
        if alone in (None, dtype) and given != {dtype}:
            raise NotProvenError(f"what it returns of {dtype} has another dtype")
        ran.add(tuple(op.op for op in recorder.ops if op.op != "aten._to_copy" or op.args[0].op != "noise"))
    if len(ran) != 1:
        raise NotProvenError("its forward depends on the dtype of its arguments")


class _DrawsNothingError(NotProvenError):
    """The module was never meant to sample."""


def _trial(twin: nn.Module, method: str, shape: tuple[int, ...], seed: int) -> _Answer:
    """Whether it returned a KL, and both as the formula says; the noise's dtype if that is not mu's; what it read."""
    generator = torch.Generator().manual_seed(seed)
    mu, logvar = (torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu") for _ in range(2))
    if shape[0] == 96:  # one term to a sum: over all that logvar may be
        logvar = torch.linspace(LOGVAR_MIN, LOGVAR_MAX, shape[0], dtype=torch.float64, device="cpu").view(shape)
        logvar = torch.nextafter(logvar, torch.zeros_like(logvar))  # where all of torch's clamps have a gradient
    mu, logvar = mu.requires_grad_(), logvar.requires_grad_()
    recorder, seen, draws, result = _run(twin, method, mu, logvar, generator)
    z, kl = (result, None) if isinstance(result, Tensor) else (result if _is_pair(result) else (None, None))
    if z is None or z.shape != shape:
        raise NotProvenError("it returns neither z nor z and the KL of each example")
    if kl is not None and kl.shape != shape[:1]:
        raise NotProvenError(f"its second result has shape {tuple(kl.shape)}, and the KL of each example {shape[:1]}")
    _check_ops(recorder, draws, shape)
    spread = torch.exp(0.5 * logvar)
    terms = 0.5 * (mu.square() + torch.exp(logvar) - logvar - 1)
    sizes = (mu.square() + torch.exp(logvar) + logvar.abs() + 1).detach()
    _agree("z", z, mu + spread * draws[0], mu, logvar, mu.abs() + (spread * draws[0]).abs() + 1, sizes)
    if kl is not None:
        _agree("KL", kl, terms.flatten(1).sum(1), mu, logvar, sizes.flatten(1).sum(1), sizes)
    return kl is not None, None if draws[0].dtype == mu.dtype else draws[0].dtype, frozen_reads(twin, seen)


def _run(twin: nn.Module, method: str, mu: Tensor, logvar: Tensor, generator: torch.Generator) -> _Run:
    """Its result, with noise of ``generator``."""
    draws: list[Tensor] = []

    def noise(size: torch.Size, dtype: torch.dtype) -> Tensor:
        draws.append(torch.randn(size, generator=generator, dtype=dtype, device="cpu"))
        return draws[-1]

    recorder, seen = Recorder(noise), Seen()
    recorder.name("input", "0", mu)
    recorder.name("input", "1", logvar)
    try:
        with watching(twin, seen), recorder, Questions(lambda _: False):
            result = getattr(twin, method)(mu, logvar)
    except NotProvenError:
        raise
    except Exception as error:
        raise (NotProvenError if draws else _DrawsNothingError)(f"its forward cannot be tried: {error}") from error
    if not draws:
        raise _DrawsNothingError("it draws nothing")
    return recorder, seen, draws, result


def _check_ops(recorder: Recorder, draws: list[Tensor], shape: tuple[int, ...]) -> None:
    if len(draws) != 1 or draws[0].shape != shape:
        raise NotProvenError("its noise is not one standard normal number for each element of mu")
    others = sorted({op.op for op in recorder.ops} - _SMOOTH - {"noise"})
    if others:
        raise NotProvenError(f"its forward also calls {', '.join(others)}")
    leaves = [arg for op in recorder.ops for arg in (*op.args, *op.kwargs.values()) if isinstance(arg, Recorded)]
    if any(value.op in ("unknown", "stale") for value in leaves):
        raise NotProvenError("its forward reads a tensor that is not an argument")


def _is_pair(result: Any) -> bool:
    return type(result) is tuple and len(result) == 2 and all(isinstance(each, Tensor) for each in result)


def _agree(name: str, theirs: Tensor, ours: Tensor, mu: Tensor, logvar: Tensor, size: Tensor, sizes: Tensor) -> None:
    """Values and gradients."""
    if theirs.dtype != ours.dtype or not theirs.requires_grad:
        raise NotProvenError(f"its {name} has no gradient, or another dtype")
    upstream = torch.linspace(-1, 2, ours.numel(), dtype=ours.dtype, device="cpu").view(ours.shape)
    grads = [
        torch.autograd.grad(y, (mu, logvar), upstream, allow_unused=True, retain_graph=True) for y in (theirs, ours)
    ]
    for what, one, two, scale in (
        (name, theirs, ours, size),
        (f"gradient of the {name} to mu", grads[0][0], grads[1][0], sizes),
        (f"gradient of the {name} to logvar", grads[0][1], grads[1][1], sizes),
    ):
        if one is None or two is None or not bool(((one - two).abs() <= 100 * _ROUNDING * scale).all()):
            raise NotProvenError(f"its {what} is not that of {_FORMULA}")
