"""Other people's masked convolutions, run as ``fastgen.ops.masked_conv2d``."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .._constants import is_exporting
from ..nn.sequence import observed
from ..ops.masked_conv2d import masked_conv2d, masked_conv2d_mask
from . import worth
from .attribute_reads import Reads, unchanged
from .swap import Fused, own_class

#: Per module: the mask that was last compared with the op's, its version then, and on a CPU a copy of it: versions miss
#: what is written through NumPy or ``.data``. On a GPU to compare would wait for it.
_SEEN: WeakKeyDictionary[nn.Module, tuple[Tensor, int, Tensor]] = WeakKeyDictionary()


@dataclass(frozen=True)
class TapsSpec:
    """Where a module holds its tensors (paths), and what else its forward calls and reads.

    ``in_place``: its forward writes the mask into the weight, so that whoever reads the weight finds zeros there.
    """

    weight: str
    bias: str | None
    mask: str
    calls: tuple[str, ...]
    reads: Reads
    in_place: bool

    @property
    def note(self) -> str:
        if not self.in_place:
            return ""
        return (
            "the mask is written into the weight at each call, as it was; gradients of dead taps are exactly zero "
            "(they were not, and the mask undid what they did)"
        )

    def pays(self, x: Tensor, weight: Tensor) -> bool:
        """Whether the op is faster for this image batch, and can be run on it."""
        raise NotImplementedError

    def is_mask(self, mask: Tensor, weight: Tensor) -> bool:
        """Whether the mask is still one that what was proven holds for."""
        raise NotImplementedError


@dataclass(frozen=True)
class MaskSpec(TapsSpec):
    """Which of the op's masks the module has."""

    type: str
    color_groups: int
    groups_order: str

    def __str__(self) -> str:
        groups = f", {self.color_groups} {self.groups_order} colours" if self.color_groups > 1 else ""
        return f"masked_conv2d, mask {self.type}{groups}"

    def pays(self, x: Tensor, weight: Tensor) -> bool:
        return worth.pays_convolved(x, weight)

    def is_mask(self, mask: Tensor, weight: Tensor) -> bool:
        expected = masked_conv2d_mask(weight.detach(), self.type, "none", self.color_groups, self.groups_order)
        return torch.equal(mask.detach().to(expected.dtype).expand_as(expected), expected)


class MaskedConv(Fused):
    """Runs as ``fastgen.ops.masked_conv2d``, and as its own forward where that is not what was proven."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs or len(args) != 1 or not holds(self, args[0]):
            return super().forward(*args, **kwargs)
        return run(self, self._fastgen_spec, args[0], "none")


def run(module: nn.Module, spec: MaskSpec, x: Tensor, activation: str) -> Tensor:
    bias = None if spec.bias is None else get(module, spec.bias)
    weight = get(module, spec.weight)
    write_mask(module, spec)
    names: Any = {"mask": spec.type, "activation": activation, "groups_order": spec.groups_order}
    return masked_conv2d(x, weight, bias, color_groups=spec.color_groups, **names)


def write_mask(module: nn.Module, spec: TapsSpec) -> None:
    """The mask into the weight if its forward does so, as ``weight.data *= mask``: graphs that hold it stay valid."""
    if not spec.in_place or is_exporting():  # an exported program has nobody else who reads it
        return
    mask, weight = get(module, spec.mask), get(module, spec.weight)
    with torch.no_grad():
        if torch.compiler.is_compiling() or weight.is_inference():  # no versions are counted there
            weight.mul_(mask)
            return
        with torch.autograd._unsafe_preserve_version_counter(weight):
            weight.mul_(mask)


def can_run(module: nn.Module, x: Any) -> bool:
    """Whether ``module`` is a fused masked convolution that can take an activation along, for this input."""
    return isinstance(module, MaskedConv) and not observed(module) and holds(module, x)


def holds(module: nn.Module, x: Any) -> bool:
    """Whether it pays, and what was proven is still so: an image batch, attributes, nobody inside watched, the mask."""
    spec: TapsSpec = module._fastgen_spec  # type: ignore[assignment]
    if not isinstance(x, Tensor) or x.dim() != 4 or not spec.pays(x, get(module, spec.weight)):
        return False
    if not unchanged(module, spec.reads):
        return False
    for path in spec.calls:
        called = get(module, path)
        if observed(called) or (isinstance(called, parametrize.ParametrizationList) and len(called) != 1):
            return False
    if torch.compiler.is_compiling():
        return True  # what it holds cannot be read there
    mask: Tensor = get(module, spec.mask)
    version = -1 if mask.is_inference() else mask._version
    seen, before, copy = _SEEN.get(module, (None, -1, mask))
    if seen is mask and before == version and (copy is mask or torch.equal(copy, mask)):
        return True
    if not spec.is_mask(mask, get(module, spec.weight)):
        warnings.warn(
            f"the mask of a fused {own_class(module).__name__} was changed; it runs as it did before it was fused",
            stacklevel=4,
        )
        return False
    _SEEN[module] = mask, version, mask.detach().clone() if mask.device.type == "cpu" else mask
    return True


def get(module: nn.Module, path: str) -> Any:
    found: Any = module
    for name in path.split("."):
        found = getattr(found, name)
    return found
