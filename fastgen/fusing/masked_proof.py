"""Finding masked convolutions by what their forward computes: one product with a constant mask, one convolution.

However it is written: ``F.conv2d(x, self.weight * self.mask, ...)``; ``self.weight.data *= self.mask`` and then the
convolution; a parametrization that multiplies by the mask; in a module of its own or around an ``nn.Conv2d``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..nn.sequence import observed
from ..ops._dtypes import FLOATING
from ..ops._masked_conv2d_checks import GROUPS_ORDERS, MASKS
from ..ops.masked_conv2d import masked_conv2d_mask
from . import cropped_conv
from .attribute_reads import Reads, Seen, frozen_reads, watching
from .cropped_conv import CropSpec
from .masked_conv import MaskSpec, get, run
from .op_recorder import NotProvenError, Recorded, Recorder, held_tensors, integers, probe_copy, to_dtype
from .questions import Questions

#: Paths of weight, bias and mask; what it calls; what it reads; whether it writes the mask into the weight.
_Common = tuple[str, str | None, str, tuple[str, ...], Reads, bool]
_SAME_VALUES = {"aten._to_copy", "aten.view", "aten._unsafe_view", "aten.unsqueeze", "aten.expand", "aten.clone"}


def looks_masked(module: nn.Module) -> bool:
    """Whether it is worth a trial: other people's module with a weight of four dimensions and a mask of its own."""
    parametrized = parametrize.is_parametrized(module)
    if type(module).__module__.startswith(("torch.", "fastgen.")) and not parametrized:
        return False
    near = [module, *module.children()]
    weights = [t for each in near for t in each._parameters.values() if t is not None and t.dim() == 4]
    if parametrized:
        parts = module.parametrizations.values()  # type: ignore[operator]
        weights += [t for part in parts for t in part._parameters.values() if t is not None and t.dim() == 4]
        own = held_tensors(module.parametrizations)  # type: ignore[arg-type]
    else:
        own = ((name, t) for name, t in held_tensors(module) if "." not in name)
    masks = [tensor for _, tensor in own if not tensor.requires_grad]
    own_conv = isinstance(module, nn.Conv2d) and not type(module).__module__.startswith("torch.")
    return own_conv or any(_may_mask(mask, weight) for mask in masks for weight in weights)


def _may_mask(mask: Tensor, weight: Tensor) -> bool:
    fits = mask.dim() in (2, 3, 4) and mask.shape[-2:] == weight.shape[-2:]
    fits = fits and all(m in (1, w) for m, w in zip(mask.shape[::-1], weight.shape[::-1], strict=False))
    return fits and not mask.is_meta and bool(((mask == 0) | (mask == 1)).all())


def prove(module: nn.Module) -> MaskSpec | CropSpec:
    """What ``module`` computes, as arguments of masked_conv2d or as a convolution with fewer taps.

    Raises:
        NotProvenError: says why it could not be shown to be one.
    """
    twin = probe_copy(module)
    specs, recorded = set(), set()
    for training in (True, False):
        twin.train(training)
        for N, H, W in ((2, 7, 5), (1, 4, 6)):
            specs.add(_trial(module, twin, N, H, W))
    if len(specs) != 1:
        raise NotProvenError("its forward depends on the mode or on the size of the image")
    for dtype in FLOATING:  # what a conversion did in one of them it does not do in another
        to_dtype(twin, dtype)
        try:
            recorded.add(_record(module, twin, _image(twin, 2, 7, 5).to(dtype).requires_grad_()))
        except NotProvenError as error:
            raise NotProvenError(f"in {dtype}, {error}") from error
    if len(recorded) != 1:
        raise NotProvenError("its forward depends on the dtype of the image")
    return specs.pop()


def _image(twin: nn.Module, N: int, H: int, W: int) -> Tensor:
    """Whole numbers in as many channels as the largest weight has."""
    weights = [t for _, t in held_tensors(twin) if t.dim() == 4 and isinstance(t, nn.Parameter)]
    weights.sort(key=lambda t: (t.requires_grad, t.numel()), reverse=True)
    channels = weights[0].shape[1] if weights else 1
    return integers((N, channels, H, W), torch.Generator().manual_seed(0))


def _record(module: nn.Module, twin: nn.Module, x: Tensor) -> tuple[_Common, tuple[int, int]]:
    """What its forward is for one image: where it holds what, what it calls and reads, and the dilation."""
    recorder, calls, seen = Recorder(), [], Seen()
    recorder.name("input", "0", x)
    for path, tensor in held_tensors(twin):
        recorder.name("held", path, tensor)
    hooks = [
        each.register_forward_pre_hook(lambda *_, path=path: calls.append(path))
        for path, each in twin.named_modules()
        if path
    ]
    try:
        with watching(twin, seen), recorder, Questions(lambda t: recorder.value(t).op == "held"):
            result = _call(twin, x)
    except NotProvenError:
        raise
    except Exception as error:
        raise NotProvenError(f"its forward cannot be tried on an image: {error}") from error
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(result, Tensor):
        raise NotProvenError(f"its forward returns {type(result).__name__}, not a tensor")
    weight, bias, mask, dilation = _pattern(recorder, recorder.value(result), module)
    tensor = get(module, weight)
    if tensor.dtype not in FLOATING:
        raise NotProvenError(f"its weight is {tensor.dtype}")
    for path in calls:
        if reason := observed(get(module, path)):
            raise NotProvenError(f"{path}, which it calls, {reason}")
    reads = frozen_reads(module, seen)
    in_place = any(op.op == "aten.mul" and op.written for op in recorder.ops)
    in_place = in_place or recorder.value(get(twin, weight)).op == "aten.mul"
    return (weight, bias, mask, tuple(sorted(set(calls))), reads, in_place), dilation


def _trial(module: nn.Module, twin: nn.Module, N: int, H: int, W: int) -> MaskSpec | CropSpec:
    x = _image(twin, N, H, W).requires_grad_()
    common, dilation = _record(module, twin, x)
    tensor, mask, generator = get(module, common[0]), common[2], torch.Generator().manual_seed(0)
    if not _may_mask(get(module, mask), tensor):
        raise NotProvenError("its mask is not made of zeros and ones, one for each tap")
    which = _which(get(module, mask), tensor) if dilation == (1, 1) else None
    spec: MaskSpec | CropSpec
    if which is None:
        spec = CropSpec(*common, *cropped_conv.live_taps(get(module, mask), tensor, dilation), dilation)
        x = integers((N, x.shape[1], H + spec.extent[0], W + spec.extent[1]), generator).requires_grad_()
    else:
        spec = MaskSpec(*common, *which)
    _compare(twin, spec, x, generator)
    return spec


def _call(twin: nn.Module, x: Tensor) -> Any:
    """Its forward, or what its class does around it."""
    own = type(twin)
    return own.forward(twin, x) if own.__call__ is nn.Module.__call__ else own.__call__(twin, x)


def _pattern(recorder: Recorder, conv: Recorded, module: nn.Module) -> tuple[str, str | None, str, tuple[int, int]]:
    """Paths of weight, bias and mask, and dilation, of convolution(input, weight · mask, bias), if that is all."""
    if conv.op != "aten.convolution":
        raise NotProvenError(f"its forward does not end in a convolution but in {conv.op}")
    x, weight, bias, stride, padding, dilation, transposed, _, groups = conv.args
    if weight.op == "held":
        raise NotProvenError("no mask is multiplied into its weight")
    if weight.op != "aten.mul" or len(weight.args) != 2 or not all(isinstance(v, Recorded) for v in weight.args):
        raise NotProvenError(f"its weight is made by {weight.op}, not by one product with a mask")
    prepared = [_behind(value) for value in weight.args]
    used = {id(conv), id(weight), *(id(value) for _, values in prepared for value in values)}
    others = sorted({op.op for op in recorder.ops if id(op) not in used})
    if others:
        raise NotProvenError(f"its forward also calls {', '.join(others)}")
    if any(value.op != "held" for value, _ in prepared) or (bias is not None and bias.op != "held"):
        raise NotProvenError("its weight, mask or bias is not a tensor that it holds as an attribute")
    (first, before_first), (second, before_second) = prepared
    tensors = [get(module, value.name) for value in (first, second)]
    if tensors[0].dim() != 4 or (not tensors[0].requires_grad and _may_mask(*tensors)):
        first, second, before_first, before_second = second, first, before_second, before_first
    if before_first or get(module, second.name).requires_grad:
        raise NotProvenError("its weight is not multiplied by a constant mask alone")
    KH, KW = get(module, first.name).shape[2:]
    dilated = f", with dilation {dilation}" if dilation != [1, 1] else ""
    for name, got, expected in (
        ("input", x.op, "input"), ("stride", stride, [1, 1]), ("transposed", transposed, False), ("groups", groups, 1),
        ("padding", padding, [dilation[0] * (KH // 2), dilation[1] * (KW // 2)]),
        ("kernel sizes that are odd", [KH % 2, KW % 2], [1, 1]),
    ):  # fmt: skip
        if got != expected:
            raise NotProvenError(f"its convolution has {name} {got}, and the op has {expected}{dilated}")
    return first.name, None if bias is None else bias.name, second.name, tuple(dilation)


def _behind(value: Recorded) -> tuple[Recorded, list[Recorded]]:
    """The held tensor behind changes of shape and dtype, and those changes."""
    changes = []
    while value.op in _SAME_VALUES:
        changes.append(value)
        value = value.args[0]
    return value, changes


def _which(mask: Tensor, weight: Tensor) -> tuple[str, int, str] | None:
    """Type, colours and their order of the op's mask that ``mask`` is, if it is one."""
    O, I = weight.shape[:2]
    for activation in ("none", "gated"):
        half = O // 2 if activation == "gated" else O
        for groups in _divisors(math.gcd(I, half) if O % 2 == 0 or activation == "none" else 0):
            for type in MASKS:
                for order in GROUPS_ORDERS:
                    expected = masked_conv2d_mask(weight.detach(), type, activation, groups, order)
                    if not torch.equal(mask.to(expected.dtype).expand_as(expected), expected):
                        continue
                    if activation == "none":
                        return type, groups, order
                    raise NotProvenError(
                        f"its mask divides each half of the outputs into {groups} colours, which the op does only "
                        "together with the gate that follows: use fastgen.nn.MaskedConv2d(..., activation='gated')"
                    )
    return None


def _divisors(n: int) -> Iterator[int]:
    return (d for d in range(1, n + 1) if n % d == 0)


def _compare(twin: nn.Module, spec: MaskSpec | CropSpec, x: Tensor, generator: torch.Generator) -> None:
    """Result and every gradient, on whole numbers, where they have to be equal to the bit."""
    leaves = [x] + [get(twin, path) for path in (spec.weight, spec.bias) if path is not None]
    for leaf in leaves[1:]:
        if not leaf.is_leaf:
            raise NotProvenError("its weight is not a parameter but computed from others")
        with torch.no_grad():
            leaf.copy_(integers(leaf.shape, generator))
        leaf.requires_grad_()
    theirs = _call(twin, x)
    ours = cropped_conv.run(twin, spec, x) if isinstance(spec, CropSpec) else run(twin, spec, x, "none")
    upstream = integers(ours.shape, generator)
    grads = [torch.autograd.grad(y, leaves, upstream, allow_unused=True) for y in (theirs, ours)]
    if spec.in_place:  # what the mask undoes is no difference
        mask = get(twin, spec.mask)
        grads = [(g[0], g[1] * mask if g[1] is not None else None, *g[2:]) for g in grads]
    names = ("result", "gradient of the input", "gradient of the weight", "gradient of the bias")
    for name, one, two in zip(names, (theirs, *grads[0]), (ours, *grads[1]), strict=False):
        if one is None or not torch.equal(one, two):
            raise NotProvenError(f"its {name} differs on a trial")
