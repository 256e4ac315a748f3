"""Modules one after the other, as ``nn.Sequential`` calls them, with as few passes over memory as the ops allow.

What runs in one op is decided from the modules as they are at each call, so that whatever was done to them since (a
hook, a conversion to SyncBatchNorm, a replacement, a slice) is respected:

    ConvTranspose2d [→ BatchNorm2d or SyncBatchNorm] [→ ReLU, LeakyReLU or Tanh]   the next step normalises on its load
    ConvTranspose2d → Sigmoid, after such a step                                   it is that next step

Everything else is called as it is, and may write over what it is given, wherever ``nn.Sequential`` lets it. What an op
answers in channels_last stays so through torch's own layers; others find it laid out as the sequence was given it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.modules import module as _module

from .._constants import constant
from ..ops._dtypes import autocast_dtype
from ..ops._layouts import is_channels_last, is_vectorized, layout_of
from ..ops._records import NONE, Activation
from ._records import activation_of
from .conv_transpose2d_bn import ConvTranspose2dBatchNorm, run_conv_transpose2d_bn
from .sync_batch_norm import SyncBatchNorm

SIGMOID = Activation("sigmoid")
#: Take any layout, and answer in it.
LAYOUT_FREE = {
    nn.BatchNorm2d, nn.SyncBatchNorm, SyncBatchNorm, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh,
    nn.Sigmoid, nn.Identity,
}  # fmt: skip
#: What no step begins with, nor anything else that runs at once.
_ALONE = (LAYOUT_FREE - {nn.BatchNorm2d}) | {
    nn.Flatten, nn.Unflatten, nn.BatchNorm1d, nn.InstanceNorm2d, nn.GroupNorm, nn.LayerNorm, nn.Dropout, nn.Dropout2d,
    nn.Softplus, nn.Upsample, nn.MaxPool2d, nn.AvgPool2d,
}  # fmt: skip

#: Answer with a tensor of their own, whatever was done to them but for what ``may_write`` sees.
_MAKE_ANEW = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)


@constant
def is_layout_free(kind: type[nn.Module]) -> bool:
    return kind in LAYOUT_FREE


@constant
def _is_alone(kind: type[nn.Module]) -> bool:
    return kind in _ALONE


@constant
def _makes_anew(kind: type[nn.Module]) -> bool:
    return kind in _MAKE_ANEW


@constant
def is_called_plainly(kind: type[nn.Module]) -> bool:
    return kind.__call__ is nn.Module.__call__


class Step(NamedTuple):
    """What runs in one op, and where in the sequence it ends; a ``SIGMOID`` is computed of the op's result."""

    conv: nn.ConvTranspose2d
    bn: nn.BatchNorm2d | nn.SyncBatchNorm | None
    activation: Activation
    end: int


def step_at(modules: Sequence[nn.Module], i: int, after: bool = False, everything: bool = False) -> Step | None:
    """The step that begins with the module at ``i``; None if there is none.

    Args:
        modules: that are called one after the other.
        i: up to their number.
        after: a step with a batch norm comes before, which this one normalises: then a Sigmoid is an activation, too.
        everything: also a transposed convolution with nothing behind it, and fastgen's own layers.
    """
    conv: Any = modules[i] if i < len(modules) else None
    if everything and type(conv) is ConvTranspose2dBatchNorm and not any(map(observed, (conv, *conv))):
        first, norm = cast("tuple[nn.ConvTranspose2d, nn.BatchNorm2d]", tuple(conv))
        return Step(first, norm, Activation(conv.activation, conv.negative_slope), i + 1)
    if type(conv) is not nn.ConvTranspose2d or observed(conv):
        return None
    end, bn, activation = i + 1, None, None
    if end < len(modules) and _normalises(modules[end], conv) and not observed(modules[end]):
        bn = modules[end]
        end += 1
    if end < len(modules) and not observed(modules[end]):
        follower = modules[end]
        activation = SIGMOID if after and bn is None and type(follower) is nn.Sigmoid else activation_of(follower)
        end += activation is not None
    if bn is None and activation in (None, NONE) and not everything:
        return None
    return Step(conv, bn, activation or NONE, end)  # type: ignore[arg-type]


def _normalises(module: nn.Module, conv: nn.ConvTranspose2d) -> bool:
    known: Any = type(module)
    return known in (nn.BatchNorm2d, nn.SyncBatchNorm, SyncBatchNorm) and bool(module.num_features == conv.out_channels)


def run_sequence(
    modules: Sequence[nn.Module],
    x: Any,
    *,
    everything: bool = False,
    channels_last: bool | None = None,
    pays: Callable[[Any, Step], bool] | None = None,
    other: Callable[[Sequence[nn.Module], int, Any], tuple[Any, int] | None] | None = None,
) -> Any:
    """``modules`` one after the other.

    Args:
        modules: as they are called.
        x: what the first one takes.
        everything: as ``step_at`` has it.
        channels_last: layout of what a step gives to a module that is none; None: that of what the step was given.
        pays: whether to run a step on this input at all; None: always.
        other: runs something else at once and says where it ends; None where there is nothing.
    """
    if globally_observed():
        for module in modules:
            x = module(x)
        return x
    i, deferred, last = 0, False, False
    owed: torch.memory_format | None = None  # that others would find x in, where an op answered in another
    following: Step | None = None
    while i < len(modules):
        if deferred or following is not None or not _is_alone(type(modules[i])):
            step = following  # looked up already; a Sigmoid belongs to a step that normalises on its load
            if not deferred and (step is None or step.activation == SIGMOID):
                step = step_at(modules, i, False, everything)
            if step is not None and (deferred or pays is None or pays(x, step)):
                if not deferred:
                    asked = owed == torch.channels_last if owed is not None else is_channels_last(x)
                    last, owed = asked if channels_last is None else channels_last, None
                step = _without_what_may_be_overwritten(modules, step, everything)
                following = step_at(modules, step.end, step.bn is not None, everything)
                activation = NONE if step.activation == SIGMOID else step.activation
                inside = following is not None
                free = inside or (step.end < len(modules) and _takes_any_layout(modules[step.end], x))
                x = run_conv_transpose2d_bn(
                    step.conv, step.bn, activation, x, deferred=inside and step.activation != SIGMOID,
                    channels_last=free or last,
                )  # fmt: skip
                x = torch.sigmoid(x) if step.activation == SIGMOID else x
                deferred, i = not isinstance(x, Tensor), step.end
                owed = torch.contiguous_format if free and not last and not deferred else None
                continue
            following = None
            done = other(modules, i, x) if other is not None else None
            if done is not None:
                if owed is None and not is_vectorized() and x.dim() == 4:
                    owed = _owed(modules[i], x, done[0])
                x, i = done
                continue
        if owed is not None and not _takes_any_layout(modules[i], x):
            x, owed = laid_out(x, owed), None
        x, i = modules[i](x), i + 1
    return x if owed is None else laid_out(x, owed)


def _owed(module: nn.Module, x: Tensor, found: Tensor) -> torch.memory_format | None:
    """The layout in which ``module`` would have answered ``x``, if that is not the one of what was found."""
    weight = module._parameters.get("weight")
    expected = weight if weight is not None and weight.dim() == 4 and is_channels_last(weight) else x
    return layout_of(expected) if layout_of(expected) != layout_of(found) else None


def _takes_any_layout(module: nn.Module, x: Any) -> bool:
    """Whether what becomes of ``x`` may be in any layout for it; torch's transposed convolution of halves may not."""
    if type(module) is nn.ConvTranspose2d:
        raw = getattr(x, "raw", x)
        return raw.dtype == torch.float32 and autocast_dtype(raw) is None and not observed(module)
    return is_layout_free(type(module)) and not observed(module)


def laid_out(x: Tensor, owed: torch.memory_format) -> Tensor:
    """In this layout, with its strides, also where sizes of 1 leave open which of them it is."""
    if owed == torch.channels_last:
        N, C, H, W = x.shape
        return x.permute(0, 2, 3, 1).contiguous().flatten().view(N, H, W, C).permute(0, 3, 1, 2)
    return x.contiguous().flatten().view(x.shape)


def _without_what_may_be_overwritten(modules: Sequence[nn.Module], step: Step, everything: bool) -> Step:
    """A LeakyReLU keeps what it is given for its gradient, where an op keeps the result, which others may write over.

    ReLU and Tanh keep their result in torch, too, and writing over it fails in both.
    """
    if may_be_overwritten(modules, step.end - 1, everything):
        return step._replace(activation=NONE, end=step.end - 1)
    return step


def may_be_overwritten(modules: Sequence[nn.Module], i: int, everything: bool = False) -> bool:
    """Whether others may write over the result of the module at ``i``, a LeakyReLU: those behind it, or beyond all."""
    leaky: Any = modules[i]
    if type(leaky) is not nn.LeakyReLU or leaky.inplace or not torch.is_grad_enabled():
        return False
    for j in range(i + 1, len(modules)):  # what comes next may hand on what it was given, or a view of it
        if step_at(modules, j, everything=everything) is not None:
            return False
        if may_write(modules[j]):
            return True
        if _makes_anew(type(modules[j])):
            return False
    return True


def may_write(module: nn.Module) -> bool:
    """Whether calling it may write into its argument: of torch's own layers only those do that are told to."""
    return any(
        getattr(each, "inplace", False) or not type(each).__module__.startswith("torch.nn.modules.") or observed(each)
        for each in module.modules()
    )


def observed(module: nn.Module) -> str:
    """What makes calling the module more than running its class's forward; "" if nothing does."""
    found = observed_itself(module)
    if found:
        return found
    if not is_called_plainly(type(module)):
        return "has a __call__ of its own"
    if module._compiled_call_impl is not None:
        return "is compiled on its own"
    return ""


def observed_itself(module: nn.Module) -> str:
    """What of the module, and not of its class, a compiler that traces the call sees, too; "" if nothing does.

    Of no other name, for a compiler looks again at each that is read.
    """
    if module._forward_hooks or module._forward_pre_hooks:
        return "has a forward hook"
    if module._backward_hooks or module._backward_pre_hooks:
        return "has a backward hook"
    own, _ = module.__dict__, module.forward  # which it looks at, and not into __dict__
    if "forward" in own or "_conv_forward" in own or "__call__" in own:
        return "has a forward of its own"
    return ""


def globally_observed() -> bool:
    """Whether hooks are registered for all modules, or a trace by ``torch.jit`` wants to see each of them."""
    return are_hooked() or bool(torch._C._get_tracing_state())


def are_hooked() -> bool:
    """Whether hooks are registered for all modules."""
    any_there = (
        _module._global_forward_hooks
        or _module._global_forward_pre_hooks
        or _module._global_backward_hooks
        or _module._global_backward_pre_hooks
    )
    return True if any_there else False  # noqa: SIM210  to a compiler, bool is one more name, and 3.13's `not not` none
