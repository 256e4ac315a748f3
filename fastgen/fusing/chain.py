"""Sequences of modules, run with as few passes over memory as the ops allow.

What is fused is decided from the modules as they are at each call, so that whatever was done to them since (a hook, a
conversion to SyncBatchNorm, a replacement, a slice of the Sequential) is respected. Kinds of steps are:

    ConvTranspose2d [→ BatchNorm2d or SyncBatchNorm] [→ ReLU, LeakyReLU or Tanh]   the next step normalises on its load
    ConvTranspose2d → Sigmoid, after such a step                                   it is that next step
    masked convolution → ReLU or ELU or GatedActivation                            in the op's epilogue
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..nn import GatedActivation
from ..nn._records import activation_of
from ..nn.conv_transpose2d_bn import run_conv_transpose2d_bn
from ..ops._dtypes import FLOATING
from ..ops._layouts import is_channels_last
from ..ops._records import NONE, Activation
from . import worth
from .masked_conv import MaskedConv, MaskSpec, can_run, run
from .swap import Fused, globally_observed, observed, own_class

_SIGMOID = Activation("sigmoid")


class FusedSequential(Fused):
    """``nn.Sequential`` that runs what can be fused in one op."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs or len(args) != 1:
            return super().forward(*args, **kwargs)
        return run_sequence(list(self._modules.values()), args[0])  # type: ignore[arg-type]


def run_sequence(modules: Sequence[nn.Module], x: Any) -> Any:
    """``modules`` one after the other, as ``nn.Sequential`` calls them."""
    if globally_observed():
        for module in modules:
            x = module(x)
        return x
    flat = flatten(modules)
    i = 0
    channels_last = deferred = False
    while i < len(flat):
        bn, activation, end = transposed(flat, i, deferred)
        if end > i and (
            deferred or (_is_batch(x, flat[i]) and worth.pays_transposed(x, flat[i]) and _is_free(bn, activation))
        ):
            if not deferred:
                channels_last = is_channels_last(x)
            next_bn, next_activation, next_end = transposed(flat, end, bn is not None)
            inside = next_end > end and _is_free(next_bn, next_activation)
            conv: Any = flat[i]
            layout = inside or channels_last
            sigmoid = activation == _SIGMOID
            known = NONE if sigmoid else activation
            x = run_conv_transpose2d_bn(conv, bn, known, x, deferred=inside and not sigmoid, channels_last=layout)
            x = torch.sigmoid(x) if sigmoid else x
            deferred, i = not isinstance(x, Tensor), end
            continue
        epilogue = masked_epilogue(flat, i)
        if epilogue and can_run(flat[i], x):
            x = run(flat[i], type(flat[i])._fastgen_spec, x, epilogue)  # type: ignore[attr-defined]
            i += 2
            continue
        x = flat[i](x)
        i += 1
    return x


def _is_free(bn: Any, activation: Activation) -> bool:
    """Whether what follows may write over the result, as it may over a batch norm's: the folded op still needs it."""
    by_batch = bn is not None and (bn.training or bn.running_mean is None)
    return by_batch or activation.name != "none" or not torch.is_grad_enabled()


def is_sequential(module: nn.Module) -> bool:
    """Whether calling it is calling what it holds, one after the other."""
    return isinstance(module, nn.Sequential) and own_class(module).forward is nn.Sequential.forward


def flatten(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """With the modules of inner Sequentials in their place, unless somebody watches those being called."""
    flat = []
    for module in modules:
        if is_sequential(module) and not observed(module):
            flat += flatten(module._modules.values())  # type: ignore[arg-type]
        else:
            flat.append(module)
    return flat


def transposed(flat: Sequence[nn.Module], i: int, after: bool = False) -> tuple[Any, Activation, int]:
    """Batch norm and activation after the ConvTranspose2d at ``i``, and where they end; ``i`` if there is none.

    ``after``: a step with a batch norm comes before, which it can normalise: then a Sigmoid is an activation, too.
    """
    if i == len(flat) or type(flat[i]) is not nn.ConvTranspose2d or observed(flat[i]):
        return None, NONE, i
    end, bn = i + 1, None
    if end < len(flat) and _normalises(flat[end], flat[i]) and not observed(flat[end]):
        bn = flat[end]
        end += 1
    if end < len(flat) and not observed(flat[end]):
        activation = _SIGMOID if after and bn is None and type(flat[end]) is nn.Sigmoid else activation_of(flat[end])
        if activation is not None and (bn is not None or activation.name != "none"):
            return bn, activation, end + 1
    return bn, NONE, end if bn is not None else i


def _normalises(module: nn.Module, conv: nn.Module) -> bool:
    known: Any = type(module)
    return known in (nn.BatchNorm2d, nn.SyncBatchNorm) and bool(module.num_features == conv.out_channels)


def _is_batch(x: Any, conv: nn.Module) -> bool:
    return isinstance(x, Tensor) and x.dim() == 4 and conv.weight.dtype in FLOATING


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
