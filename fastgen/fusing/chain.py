"""Sequences of modules as fuse runs them: ``nn.sequence``'s steps where those pay, and four more kinds.

masked convolution → ReLU or ELU or GatedActivation                            in the op's epilogue
transposed convolution alone                                                   as products of pixels
convolution of kernel 4, stride 2, padding 1                                   in 9/16 of its multiplications
linear layer → ReLU, LeakyReLU or Tanh → linear layer                          one op
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..nn import GatedActivation, sequence
from ..nn._records import convolution_of
from ..nn.halving import follower
from ..nn.perceptron import run_dense, run_faster
from ..nn.sequence import globally_observed, observed
from ..ops._dtypes import FLOATING, lowered
from ..ops._records import NONE
from ..ops._registry import evaluates
from ..ops.conv_transpose2d import ACTIVATED, conv_transpose2d, converted, runs_in_float32, swift
from ..ops.conv_transpose2d_products import has_forms
from . import worth
from .masked_conv import MaskedConv, MaskSpec, can_run, run
from .swap import Fused, own_class


class FusedSequential(Fused):
    """``nn.Sequential`` that runs what can be fused in one op."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs or not args or args[1:]:  # of few names: a compiler looks again at each
            return super().forward(*args, **kwargs)
        modules: Any = [*self._modules.values()]
        y = run_dense(modules, args[0])
        return _run_steps(modules, args[0]) if y is None else y


def run_sequence(modules: Sequence[nn.Module], x: Any) -> Any:
    """``modules`` one after the other, as ``nn.Sequential`` calls them; those of inner ones, too."""
    y = run_dense(modules, x)
    return _run_steps(modules, x) if y is None else y


def _run_steps(modules: Sequence[nn.Module], x: Any) -> Any:
    flat = modules if globally_observed() else flatten(modules)
    return sequence.run_sequence(flat, x, pays=_pays_transposed, other=_run_other)


def _pays_transposed(x: Any, step: sequence.Step) -> bool:
    """Whether the op takes ``x`` at all, and is faster than what it replaces."""
    batch = isinstance(x, Tensor) and x.dim() == 4 and step.conv.weight.dtype in FLOATING
    return batch and worth.pays_transposed(x, step.conv, step.bn is None or type(step.bn) is nn.BatchNorm2d)


def _run_other(flat: Sequence[nn.Module], i: int, x: Any) -> tuple[Any, int] | None:
    """A masked convolution or a transposed one with its activation."""
    conv: Any = flat[i]
    kind = type(conv)
    if kind is nn.Conv2d or kind is nn.Linear or kind is nn.BatchNorm2d:
        return run_faster(flat, i, x)
    if kind is nn.ConvTranspose2d:
        if not isinstance(x, Tensor) or x.dtype not in FLOATING or observed(conv):
            return None
        convolution, image = convolution_of(conv), lowered(x) if x.dtype == torch.float32 else x
        found = swift(image, convolution)
        if found is None:
            return None
        convolution, form = found
        mixed = any(each is not None and each.dtype != image.dtype for each in convolution[:2])
        if mixed and torch.is_grad_enabled() and not runs_in_float32(image):
            convolution = converted(convolution, image.dtype)  # as autocast does, of a form that reads no others
        activation, end = NONE, i + 1
        if form in ACTIVATED or evaluates():  # else it would be in place, which those see who look on at torch's ops
            activation, end = follower(flat, i + 1)
        return conv_transpose2d(image, convolution, activation, form), end
    epilogue = masked_epilogue(flat, i)
    if epilogue is None or not can_run(flat[i], x):
        return run_faster(flat, i, x)
    return run(flat[i], type(flat[i])._fastgen_spec, x, epilogue), i + 2  # type: ignore[attr-defined]


def is_alone(conv: Any) -> bool:
    """Whether a transposed convolution runs as products on a CPU, with nothing behind it that an op takes along."""
    known = type(conv) is nn.ConvTranspose2d and not observed(conv) and conv.weight.device.type == "cpu"
    return known and not worth.small(conv.weight, worth.ALONE_WEIGHTS) and has_forms(convolution_of(conv))


def is_sequential(module: nn.Module) -> bool:
    """Whether calling it is calling what it holds, one after the other: its forward goes through ``__iter__``."""
    if not isinstance(module, nn.Sequential):
        return False
    own: Any = own_class(module)
    return own.forward is nn.Sequential.forward and own.__iter__ is nn.Sequential.__iter__


def flatten(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """With the modules of inner Sequentials in their place, unless somebody watches those being called."""
    flat = []
    for module in modules:
        if is_sequential(module) and not observed(module):
            flat += flatten(module._modules.values())  # type: ignore[arg-type]
        else:
            flat.append(module)
    return flat


def masked_epilogue(flat: Sequence[nn.Module], i: int, specs: dict[nn.Module, Any] | None = None) -> str | None:
    """The activation that the masked convolution at ``i`` can take along. ``specs``: of those not swapped yet."""
    module = flat[i]
    spec = (specs or {}).get(module, module._fastgen_spec if isinstance(module, MaskedConv) else None)
    if not isinstance(spec, MaskSpec) or i + 1 == len(flat) or observed(module) or observed(flat[i + 1]):
        return None
    follower = flat[i + 1]
    if type(follower) is nn.ReLU:
        return "relu"
    if type(follower) is nn.ELU and follower.alpha == 1:
        return "elu"
    return "gated" if type(follower) is GatedActivation and spec.color_groups == 1 else None
