"""What a module's own forward computes: every ATen op of it, as expressions over its inputs and the tensors it holds.

The forward of a copy runs below autograd, as in ``fastgen.sampling.trace``; here nothing is folded, because every op
counts: a pattern is proven only if there is no other op beside it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from .._places import place_of, storage_of, written


class NotProvenError(Exception):
    """A module that is left as it is; the message is the reason that the report gives."""


@dataclass(eq=False)
class Recorded:
    """A tensor as an expression.

    Attributes:
        op: "input" or "held" (by the module), or the ATen op that made it, by the name of its out-of-place form.
        name: position of an input, path of a held tensor.
        args, kwargs: of the op; tensors are values.
        written: whether the op wrote over its first argument.
    """

    op: str
    name: str = ""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    written: bool = False


class Recorder(TorchDispatchMode):
    """Records while it is entered.

    Args:
        noise: called with the shape and dtype wanted, instead of a standard normal draw. None: drawing is refused.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # saves the import of all of torch.compile

    def __init__(self, noise: Callable[[torch.Size, torch.dtype], Tensor] | None = None) -> None:
        super().__init__()
        self.ops: list[Recorded] = []
        self._noise = noise
        self._values: dict[Any, Recorded] = {}
        self._alive: list[Tensor] = []  # so that no place in memory is used twice

    def name(self, op: str, name: str, tensor: Tensor) -> None:
        self._set(tensor, Recorded(op, name))

    def value(self, tensor: Tensor) -> Recorded:
        return self._values.get(place_of(tensor)) or Recorded("unknown")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        changed = written(func, args, kwargs)
        namespace, name = func._schema.name.split("::")
        made = Recorded(f"{namespace}.{name.removesuffix('_')}", written=bool(changed))
        made.args, made.kwargs = tree_map_only(Tensor, self.value, (tuple(args), dict(kwargs)))
        if torch.Tag.nondeterministic_seeded in func.tags:
            result = self._draw(made, func, args, kwargs)
        else:
            result = func(*args, **kwargs)
        if made.op in ("aten.detach", "aten.alias", "aten.lift_fresh"):
            self._set(result, made.args[0])
            return result
        self.ops.append(made)
        for tensor in changed:
            storage = storage_of(tensor)
            for other in [key for key in self._values if key[0] == storage]:
                self._values[other] = Recorded("stale")  # a view of what has just changed
        for tensor in changed or [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]:
            self._set(tensor, made)
        return result

    def _set(self, tensor: Tensor, value: Recorded) -> None:
        self._alive.append(tensor)
        self._values[place_of(tensor)] = value

    def _draw(self, made: Recorded, func: Any, args: Any, kwargs: Any) -> Tensor:
        """The noise asked for, from ``noise`` instead of the generator."""
        if self._noise is None:
            raise NotProvenError(f"its forward draws random numbers ({made.op})")
        if made.op == "aten.normal" and made.written:
            options = {"mean": 0, "std": 1, **dict(zip(("mean", "std"), args[1:], strict=False)), **kwargs}
            if options.pop("generator", None) is not None or options != {"mean": 0, "std": 1}:
                raise NotProvenError("its noise is not standard normal, or comes from a generator of its own")
            made.op, made.args, made.kwargs = "noise", (), {}
            return args[0].copy_(self._noise(args[0].shape, args[0].dtype))
        standard = len(args) > 2 and not isinstance(args[0], Tensor) and not isinstance(args[1], Tensor)
        if made.op == "aten.normal" and standard and args[:2] == (0, 1) and kwargs.get("generator") is None:
            made.op, made.args, made.kwargs = "noise", (), {}
            return self._noise(torch.Size(args[2]), kwargs.get("dtype") or torch.get_default_dtype())
        if made.op not in ("aten.randn_like", "aten.randn") or kwargs.get("generator") is not None:
            raise NotProvenError(f"its noise is drawn by {made.op}, and only standard normal noise is known here")
        made.op, made.args, made.kwargs = "noise", (), {}
        if isinstance(args[0], Tensor):
            return self._noise(args[0].shape, kwargs.get("dtype") or args[0].dtype)
        return self._noise(torch.Size(args[0]), kwargs.get("dtype") or torch.get_default_dtype())


def held_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(path, tensor) of parameters, buffers and plain attributes of the module and the modules in it."""
    for path, each in module.named_modules():
        for name, tensor in {**each._parameters, **each._buffers, **vars(each)}.items():
            if isinstance(tensor, Tensor):
                yield f"{path}.{name}" if path else name, tensor


def probe_copy(module: nn.Module) -> nn.Module:
    """A copy to try things on: in float64 on the CPU, without hooks, so that nobody sees the trial.

    Raises:
        NotProvenError: it cannot be copied, or has no values.
    """
    if any(tensor.is_meta for _, tensor in held_tensors(module)):
        raise NotProvenError("it lies on the meta device, without values")
    try:
        twin = copy.deepcopy(module)
    except Exception as error:
        raise NotProvenError(f"it cannot be copied: {error}") from error
    to_dtype(twin, torch.float64)
    for each in twin.modules():
        for hooks in (each._forward_hooks, each._forward_pre_hooks, each._backward_hooks, each._backward_pre_hooks):
            hooks.clear()
    return twin


def to_dtype(twin: nn.Module, dtype: torch.dtype) -> None:
    """Everything that floats in ``dtype``, on the CPU, plain attributes as well."""
    twin.to(device="cpu", dtype=dtype)
    for each in twin.modules():
        for name, tensor in vars(each).items():
            if isinstance(tensor, Tensor):
                other = dtype if tensor.is_floating_point() else tensor.dtype
                each.__dict__[name] = tensor.detach().to(device="cpu", dtype=other).requires_grad_(tensor.requires_grad)


def integers(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Small whole numbers in float64: sums of their products are exact in any order, so that equal means equal."""
    return torch.randint(-8, 9, tuple(shape), generator=generator).double()
