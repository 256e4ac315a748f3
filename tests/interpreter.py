"""Triton's interpreter, computing the same and checking more, without what it does again at every operation."""

import functools
import operator
from typing import Any

import numpy as np
import triton.language as tl
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter

OPERATIONS = {"add": operator.add, "sub": operator.sub, "mul": operator.mul}


def quicken() -> None:
    """For this process. Most of what a small kernel took was not arithmetic but looking things up."""
    _patch_a_module_once_in_a_launch()
    _remember_numpy_dtypes()
    _remember_types_of_blocks()
    TritonSemantic.binary_op_sanitize_overflow_impl = _assert_no_overflow


def _patch_a_module_once_in_a_launch() -> None:
    """Each call of a jitted function from another looks through all of ``triton.language`` for what is to be replaced.

    What the launch replaced, or a call before in it, is replaced already.
    """
    patch, launch, replaced = interpreter._patch_lang, interpreter.GridExecutor.__call__, set[int]()

    @functools.cache
    def modules(function: Any) -> frozenset[int]:
        return frozenset(id(value) for value in function.__globals__.values() if value is tl or value is tl.core)

    def patch_what_is_not(function: Any) -> Any:
        if modules(function) <= replaced:
            return None  # nobody restores what a call replaces: only a launch does
        scope = patch(function)
        replaced.update(modules(function))
        return scope

    def launch_afresh(self: Any, *args: Any, **kwargs: Any) -> None:
        replaced.clear()
        launch(self, *args, **kwargs)

    interpreter._patch_lang, interpreter.GridExecutor.__call__ = patch_what_is_not, launch_afresh


def _remember_numpy_dtypes() -> None:
    """The table of dtypes is made at each look into it."""
    look = functools.cache(interpreter._get_np_dtype)

    def np_dtype(dtype: Any) -> Any:
        scalar = dtype.element_ty if isinstance(dtype, tl.block_type) else dtype
        return np.dtype(np.uint64) if isinstance(scalar, tl.pointer_type) else look(scalar)

    interpreter._get_np_dtype = np_dtype


def _remember_types_of_blocks() -> None:
    """Every result of an operation had its type and its shape made, and checked, anew; and was broadcast to itself."""
    shapes: dict[tuple[Any, ...], tuple[Any, Any, Any]] = {}  # → as a type has it, as a tensor has it, and its product
    types: dict[tuple[int, tuple[Any, ...]], dict[str, Any]] = {}  # an element's type lives as long as what is kept
    make_type, make_tensor, broadcast = tl.block_type.__init__, tl.tensor.__init__, TritonSemantic.broadcast_impl_value

    def block_type(self: Any, element_ty: Any, shape: Any) -> None:
        sizes = tuple(size.value if isinstance(size, tl.constexpr) else size for size in shape)
        if (kept := types.get((id(element_ty), sizes))) is None:
            make_type(self, element_ty, shape)
            if sizes not in shapes:
                block = tl.tensor(None, tl.float32)
                make_tensor(block, None, self)
                shapes[sizes] = self.shape, block.shape, block.numel
            self.shape = shapes[sizes][0]
            kept = types[id(element_ty), sizes] = dict(self.__dict__, sizes=sizes)
        self.__dict__.update(kept)

    def tensor(self: Any, handle: Any, type: Any) -> None:
        if not type.is_block():
            make_tensor(self, handle, type)
            return
        self.handle, self.type, self.dtype = handle, type, type.scalar
        _, self.shape, self.numel = shapes[type.sizes]

    def broadcast_what_differs(self: Any, left: Any, right: Any) -> Any:
        if left.type.is_block() and right.type.is_block() and left.type.shape is right.type.shape:
            return left, right
        return broadcast(self, left, right)

    tl.block_type.__init__, tl.tensor.__init__ = block_type, tensor
    TritonSemantic.broadcast_impl_value = broadcast_what_differs


def _assert_no_overflow(self: Any, left: Any, right: Any, operation: Any) -> None:
    """By numpy instead of in a dozen operations of the interpreter, whose outcome Triton reads in debug mode only."""
    dtype = left.type.scalar
    if dtype.int_bitwidth >= 64 or not self.builder.options.sanitize_overflow:
        return
    assert dtype == right.type.scalar
    wide = OPERATIONS[operation.__name__](left.handle.data.astype(np.int64), right.handle.data.astype(np.int64))
    fits = (wide >= dtype.get_int_min_value()) & (wide <= dtype.get_int_max_value())
    assert fits.all(), f"int{dtype.int_bitwidth} overflow detected for operation {operation.__name__}"
