"""define_op: one call that tells torch everything it needs to know about an op.

The schema stands beside the reference, and the reference is the op's default kernel on every device, so every op works
everywhere from the moment it is defined. A compiled kernel only claims a dispatch key: ``csrc/<op>_cpu.cpp`` claims
CPU; ``csrc/<op>_cuda.cu`` or ``fastgen/ops/<op>_triton.py`` claims CUDA. Torch's dispatcher is the only dispatch table:
what a Triton kernel leaves to the reference, float64, is said where the op is defined.
"""

import functools
import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._C import _get_dispatch_mode, _TorchDispatchModeKey
from torch._guards import TracingContext
from torch.autograd import forward_ad
from torch.overrides import has_torch_function
from torch.utils._pytree import tree_map_only

from .._checks import check_device
from .._constants import is_exporting

NAMESPACE = "fastgen"

#: Where each op is once more, with the same kernels and nothing for autograd: what programs of torch's compiler call,
#: whose gradients are programs of their own. There the way from the dispatcher to Python and back is 3 µs a call.
BELOW = "fastgen_below"

#: Whether Triton kernels can be registered. torch's CUDA wheels for Linux bring triton along.
HAS_TRITON = importlib.util.find_spec("triton") is not None

#: Every op defined so far: its name, and which source file serves which dispatch key.
OPS: dict[str, Mapping[str, str]] = {}

#: What is registered for autograd of each op, to be called past the dispatcher.
_DIFFERENTIATED: dict[Any, Callable[..., Any]] = {}

#: The mode in which compilers trace, asked first: for who computes, one call of C.
_FUNCTIONAL = _TorchDispatchModeKey.FUNCTIONAL

#: Each op, and the same in ``BELOW``.
_BELOW: dict[Any, Callable[..., Any]] = {}

# What is registered through them lives as long as they.
_LIBRARIES = {space: torch.library.Library(space, "FRAGMENT") for space in (NAMESPACE, BELOW)}


def define_op(
    schema: str,
    *,
    kernels: Mapping[str, str],
    reference: Callable[..., Any] | None,
    fake: Callable[..., Any] | None,
    backward: Callable[..., Any] | None,
    setup_context: Callable[..., None] | None = None,
    contiguous: bool = True,
    composite: bool = False,
    triton_float64: bool = False,
    draws: bool = False,
) -> None:
    """Define ``schema`` in the ``fastgen`` namespace.

    Args:
        schema: name, arguments and results, as ``torch.library.define`` takes them.
        kernels: dispatch key → source file of the kernel that claims it. Compiled ones register themselves when their
            library is loaded. ``fastgen/ops/<stem>_triton.py`` offers ``<op>_triton``; it is registered here, where
            triton is installed, and imported when the first tensor of that device arrives.
        reference: plain torch; runs wherever no compiled kernel claims the device. None: the op exists only where one
            does, and its caller asks first.
        fake: shapes, dtypes and strides of the results, without data; None: the op is never traced.
        backward: ``backward(ctx, *grads)``. None: differentiating the op raises, instead of being silently wrong.
        setup_context: ``setup_context(ctx, inputs, output)``, what the backward keeps.
        contiguous: the layout contract. True: results are contiguous, whoever computes them. False: the reference
            itself answers with the layout that ``fake`` states.
        composite: whether the op is differentiated by running its reference in its place, which then has to consist of
            operations that are differentiable themselves: what a backward op does for gradients of every order.
        triton_float64: whether the Triton kernel computes float64. Else the reference does, where the first argument is
            float64: consumer GPUs have hardly any units for it, and nobody trains in it.
        draws: whether the op draws from torch's generator, so that no two calls are the same.
    """
    name = schema[: schema.index("(")]
    if reference is not None and contiguous:
        reference = _returning_contiguous(reference)
    for space, library in _LIBRARIES.items():
        qualified = f"{space}::{name}"
        torch.library.define(qualified, schema[len(name) :], tags=(torch.Tag.nondeterministic_seeded,) if draws else ())
        if reference is not None:
            torch.library.register_kernel(qualified, None, reference)
        if fake is not None:
            torch.library.register_fake(qualified, _on_one_device(name, fake))
        for key, source in kernels.items():
            if source.endswith("_triton.py") and HAS_TRITON:
                kernel = _triton_kernel(name, Path(source).stem)
                if not triton_float64 and reference is not None:
                    kernel = _except_in_float64(kernel, reference)
                library.impl(name, kernel, key)
    op = getattr(getattr(torch.ops, NAMESPACE), name).default
    _BELOW[op] = getattr(getattr(torch.ops, BELOW), name).default
    own = _function(op, setup_context, backward or _not_differentiable(f"{NAMESPACE}::{name}"))
    _DIFFERENTIATED[op] = _autograd_kernel(op, reference if composite and reference is not None else own)
    _LIBRARIES[NAMESPACE].impl(name, _DIFFERENTIATED[op], "Autograd")
    _LIBRARIES[BELOW].impl(name, torch.library.fallthrough_kernel, "Autograd")
    OPS[name] = kernels


def _triton_kernel(name: str, module: str) -> Callable[..., Any]:
    """``<name>_triton`` of ``fastgen.ops.<module>``, on the device of its tensors."""
    loaded: list[Callable[..., Any]] = []

    def kernel(*args: Any) -> Any:
        if not loaded:
            guard = importlib.import_module("fastgen.ops._triton").on_device_of
            loaded.append(guard(getattr(importlib.import_module(f"fastgen.ops.{module}"), f"{name}_triton")))
        return loaded[0](*args)

    return kernel


def _except_in_float64(kernel: Callable[..., Any], reference: Callable[..., Any]) -> Callable[..., Any]:
    """``kernel``, but ``reference`` where the first argument, a tensor, is float64."""

    def either(*args: Any) -> Any:
        return (reference if args[0].dtype == torch.float64 else kernel)(*args)

    return either


def _function(
    op: Callable[..., Any], setup_context: Callable[..., None] | None, backward: Callable[..., Any]
) -> Callable[..., Any]:
    """``op`` as a node of its own in the graph of gradients."""

    def forward(ctx: Any, *args: Any) -> Any:
        output = _below(op, args)
        if setup_context is not None:
            setup_context(ctx, args, output)
        return output

    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    function: Any = type(str(op).replace(".default", "").replace(".", "_"), (torch.autograd.Function,), members)
    apply: Callable[..., Any] = function.apply
    return apply


def _autograd_kernel(op: Callable[..., Any], differentiated: Callable[..., Any]) -> Callable[..., Any]:
    """What ``torch.library.register_autograd`` would register, without its share of the cost of a small op."""

    def kernel(*args: Any) -> Any:
        if forward_ad._current_level >= 0 and any(_has_tangent(arg) for arg in args):
            raise RuntimeError(f"{op}: forward-mode differentiation is not supported")
        if torch.is_grad_enabled() and any(isinstance(arg, Tensor) and arg.requires_grad for arg in args):
            return differentiated(*args)
        return _below(op, args)

    return kernel


def _below(op: Callable[..., Any], args: Sequence[Any]) -> Any:
    """``op(*args)`` without autograd, and so that a program which torch's compiler is writing has none to ask, either.

    An exported program calls ``op``, which has other executors, and so does one of dual numbers: ``op`` refuses them.
    """
    if _get_dispatch_mode(_FUNCTIONAL) is not None and is_compiled():
        return _BELOW[op](*args)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*args)


def is_compiled() -> bool:
    """Of what is traced: whether it is for a program of torch's compiler."""
    return TracingContext.try_get() is not None and not is_exporting() and forward_ad._current_level < 0


def evaluates() -> bool:
    """Whether nobody asks for gradients, or looks on: then ``call`` goes past what is there for these."""
    traced = torch.compiler.is_dynamo_compiling() or is_exporting()
    return not traced and not torch.is_grad_enabled() and forward_ad._current_level < 0


def call(op: Callable[..., Any], *args: Any) -> Any:
    """``op(*args)``, where nobody looks on without the dispatcher's way from Python to Python.

    A product leaves nothing of Python in the caches: on an AMD EPYC an op of 25 µs took 200 to 400 after two transposed
    convolutions of 256 to 128 channels.
    """
    dual = forward_ad._current_level >= 0
    if dual and torch.compiler.is_compiling():  # so that its caches do not take the graph for that of plain numbers
        args = tuple(each.view_as(each) if isinstance(each, Tensor) else each for each in args)
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or torch._C._get_tracing_state():
        return op(*args)
    if torch.is_grad_enabled() or dual:
        return op(*args) if has_torch_function(args) else _DIFFERENTIATED[op](*args)
    return _below(op, args)


def _has_tangent(arg: Any) -> bool:
    return isinstance(arg, Tensor) and forward_ad.unpack_dual(arg).tangent is not None


def _on_one_device(name: str, fake: Callable[..., Any]) -> Callable[..., Any]:
    """``fake``, which also runs for a real tensor beside one on the meta device, and would answer with empty memory."""
    names = [argument.name for argument in getattr(getattr(torch.ops, NAMESPACE), name).default._schema.arguments]

    @functools.wraps(fake)
    def kernel(*args: Any) -> Any:
        tensors = [(label, arg) for label, arg in zip(names, args, strict=False) if isinstance(arg, Tensor)]
        for label, tensor in tensors[1:]:
            check_device(label, tensor, *tensors[0])
        return fake(*args)

    return kernel


def _returning_contiguous(reference: Callable[..., Any]) -> Callable[..., Any]:
    def kernel(*args: Any) -> Any:
        return tree_map_only(Tensor, Tensor.contiguous, reference(*args))

    return kernel


def _not_differentiable(name: str) -> Callable[..., Any]:
    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(f"{name}: double backward is not supported")

    return backward
