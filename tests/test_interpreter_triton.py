"""What tests/interpreter.py leaves out of Triton's interpreter is only time; and integers do not overflow."""

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.errors import InterpreterError

OPERATIONS = ("add", "sub", "mul")


@triton.jit
def combined(a, b, OPERATION: tl.constexpr):
    if OPERATION == "add":
        return a + b
    if OPERATION == "sub":
        return a - b
    return a * b


@triton.jit
def kernel(a_ptr, b_ptr, y_ptr, sum_ptr, BLOCK: tl.constexpr, OPERATION: tl.constexpr):
    i = tl.arange(0, BLOCK)
    y = combined(tl.load(a_ptr + i), tl.load(b_ptr + i), OPERATION)
    tl.store(y_ptr + i, y)
    tl.store(sum_ptr, tl.sum(y.to(tl.float32), axis=0))


def launched(a: list[int], b: list[int], operation: str, dtype: torch.dtype) -> tuple[list[int], float]:
    one, two = torch.tensor(a, dtype=dtype), torch.tensor(b, dtype=dtype)
    y, total = torch.empty_like(one), torch.zeros(1)
    kernel[(1,)](one, two, y, total, BLOCK=len(a), OPERATION=operation)
    return y.tolist(), total.item()


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_overflow_is_noticed(operation: str, bits: int) -> None:
    """In one element, on either side, at the next number; the last that fits is right."""
    dtype, top = getattr(torch, f"int{bits}"), 2 ** (bits - 1) - 1
    fits, outside = {
        "add": ([(top - 1, 1), (-top, -1)], [(top, 1), (-top, -2)]),
        "sub": ([(top - 1, -1), (-top, 1)], [(top, -1), (-top, 2)]),
        "mul": ([(top, 1), (-(2 ** (bits - 2)), 2)], [(2 ** (bits - 2), 2), (-(2 ** (bits - 2)) - 1, 2)]),
    }[operation]
    expected = [{"add": a + b, "sub": a - b, "mul": a * b}[operation] for a, b in fits]
    assert launched(*map(list, zip(*fits, strict=True)), operation, dtype)[0] == expected
    for a, b in outside:
        with pytest.raises(InterpreterError, match=f"int{bits} overflow detected for operation {operation}"):
            launched([3, a], [2, b], operation, dtype)


def test_64_bits_are_not_widened() -> None:
    assert launched([2**62, 5], [2**62, 5], "add", torch.int64)[0] == [-(2**63), 10]


def test_every_launch_replaces_the_language_and_restores_it() -> None:
    for _ in range(2):
        assert launched([1, 2], [3, 5], "mul", torch.int32) == ([3, 10], 13.0)
        with pytest.raises(Exception, match="_semantic"):  # Triton's own again, which runs in a launch only
            tl.arange(0, 4)


@pytest.mark.parametrize(("dtype", "name"), [
    (tl.int1, "bool"), (tl.bfloat16, "uint16"), (tl.float16, "float16"), (tl.int64, "int64"), (tl.uint8, "uint8"),
])  # fmt: skip
def test_dtypes_are_those_of_the_table(dtype: tl.dtype, name: str) -> None:
    assert interpreter._get_np_dtype(dtype) == interpreter._get_np_dtype(tl.block_type(dtype, [4])) == name
    pointer = tl.pointer_type(dtype)
    assert interpreter._get_np_dtype(pointer) == interpreter._get_np_dtype(tl.block_type(pointer, [4])) == "uint64"


@triton.jit
def outer(a_ptr, y_ptr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    a, b = tl.load(a_ptr + tl.arange(0, ROWS)), tl.full((COLUMNS,), 2, tl.int32)
    y = a[:, None] * b[None, :] + tl.zeros((ROWS, COLUMNS), tl.float32)
    tl.static_assert(y.dtype == tl.float32 and y.shape[1] == COLUMNS and y.numel == ROWS * COLUMNS)
    tl.store(y_ptr + tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :], y)


def test_blocks_have_the_type_and_the_shape_that_they_are_given() -> None:
    """Also those of a size that came before, of other elements; one of a size that none can have is refused again."""
    for rows, columns in ((4, 4), (2, 8), (4, 4), (1, 4)):
        a, y = torch.arange(rows, dtype=torch.int32), torch.empty(rows, columns)
        outer[(1,)](a, y, ROWS=rows, COLUMNS=columns)
        assert torch.equal(y, (2.0 * a)[:, None].expand(rows, columns))
        with pytest.raises(InterpreterError, match="must be a power of 2"):
            outer[(1,)](a, y, ROWS=rows, COLUMNS=6)
