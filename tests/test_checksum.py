"""checksum: a number that tells whether a tensor's content has changed, the same whoever computes it."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fastgen.ops.checksum import BLOCK, checksum, checksum_reference, multipliers_on
from ops import assert_opcheck, assert_runs, with_threads

OP = torch.ops.fastgen.checksum.default
DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.int64, torch.int16, torch.uint8,
    torch.bool,
)  # fmt: skip
SIZES = (0, 1, 2, 3, 7, 101, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5, 40 * BLOCK)
MULTIPLIERS = multipliers_on(torch.device("cpu"))


def in_numpy(tensor: Tensor) -> int:
    """The formula in NumPy, as it stands."""
    m = MULTIPLIERS.numpy()
    content = tensor.resolve_conj().resolve_neg().contiguous().numpy().tobytes()
    words = np.frombuffer(content + bytes(-len(content) % 4), np.int32)
    while True:
        blocks = [words[i : i + len(m)].astype(np.int64) for i in range(0, len(words), len(m))]
        sums = np.array([block @ m[: len(block)] for block in blocks], np.int64)
        if len(sums) <= 1:
            return int(sums.sum())
        words = sums.view(np.int32)


def some(dtype: torch.dtype, *shape: int) -> Tensor:
    """All bits of it are random, but those of a bool."""
    if dtype == torch.bool:
        return torch.randint(2, shape).bool()
    width = dtype.itemsize
    return torch.randint(256, (math.prod(shape) * width,), dtype=torch.uint8).view(dtype).view(shape)


def assert_same(tensors: list[Tensor]) -> None:
    found = OP(tensors, MULTIPLIERS)
    assert torch.equal(found, checksum_reference([each.resolve_conj().resolve_neg() for each in tensors], MULTIPLIERS))
    assert checksum(tensors) == found.tolist()
    assert found.tolist() == [
        in_numpy(each if each.dtype != torch.bfloat16 else each.view(torch.int16)) for each in tensors
    ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_compiled_code_reference_and_numpy_answer_with_the_same_integers(dtype: torch.dtype) -> None:
    assert_same([some(dtype, size) for size in SIZES])
    if dtype != torch.bfloat16:
        x = some(dtype, 5, 7, 3)
        assert_same([x, x.permute(2, 0, 1), x[1:, ::2], x[0, 0, 0], x.expand(4, 5, 7, 3), x[:, :0]])


def test_several_joins_of_blocks() -> None:
    """Of two million words, as large layers have."""
    x = some(torch.float32, BLOCK * BLOCK // 2 + 1)
    assert_same([x, x[:-1]])


def test_views_that_torch_reads_otherwise_than_they_lie() -> None:
    z = torch.randn(6, dtype=torch.complex64)
    assert_same([z.conj(), z.conj().imag, z])
    assert len(set(checksum([z.conj(), z]))) == 2


def test_no_tensors_and_those_without_content() -> None:
    assert checksum([]) == []
    assert OP([], MULTIPLIERS).tolist() == checksum_reference([], MULTIPLIERS).tolist() == []
    assert checksum([torch.zeros(3, device="meta")]) == [0]
    assert checksum([torch.zeros(0), torch.zeros(5)]) == [0, 0]


def test_every_bit_counts_wherever_it_stands() -> None:
    """Of the first word of a block and of the last one, and of bytes that are no whole word."""
    assert (MULTIPLIERS & 1).all()
    size = 4 * BLOCK + 3
    zeros = torch.zeros(size, dtype=torch.uint8)
    changed = []
    for at in (0, 1, 2, 3, 4 * BLOCK - 1, 4 * BLOCK, size - 1):
        for bit in range(8):
            changed.append(zeros.clone())
            changed[-1][at] = 1 << bit
    assert len(set(checksum([zeros, *changed]))) == 1 + len(changed)


def test_two_signs_and_two_words_exchanged() -> None:
    """Sums miss the second; products with 64-bit words, of whose highest bits one is left, the first."""
    x = torch.randn(3 * BLOCK)
    for one, other in ((0, 1), (0, 2), (5, BLOCK + 5), (BLOCK - 1, BLOCK)):
        signs, order = x.clone(), x.clone()
        signs[[one, other]] *= -1
        order[[one, other]] = x[[other, one]]
        assert len(set(checksum([x, signs, order]))) == 3
    blocks = x.view(3, BLOCK)
    assert len(set(checksum([blocks, blocks.roll(1, 0), blocks.roll(1, 1)]))) == 3


def test_it_does_not_depend_on_threads() -> None:
    tensors = [some(torch.float32, size) for size in (7, 200 * BLOCK + 3, 1)]
    assert with_threads(1, lambda: checksum(tensors)) == with_threads(3, lambda: checksum(tensors))


def test_torch_knows_it() -> None:
    x = torch.randn(5, 7)
    assert_opcheck(OP, ([x, x.t(), x.double()], MULTIPLIERS))
    compiled = torch.compile(lambda x: OP([x, x + 1], MULTIPLIERS) - 1, fullgraph=True, backend="aot_eager")
    with assert_runs(OP):
        assert torch.equal(compiled(x), OP([x, x + 1], MULTIPLIERS) - 1)
    weight = torch.nn.Parameter(x)
    assert not OP([weight], MULTIPLIERS).requires_grad
    with torch.inference_mode():
        assert checksum([weight]) == checksum([x])


def test_what_does_not_fit_is_refused() -> None:
    x = torch.randn(3)
    for message, multipliers in {
        "multipliers: expected shape": MULTIPLIERS[:3],
        "multipliers: expected shape .*": MULTIPLIERS.view(-1, 4),
        "multipliers: expected another dtype": MULTIPLIERS.int(),
    }.items():
        with pytest.raises(RuntimeError, match=message):
            OP([x], multipliers)
