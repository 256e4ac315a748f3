"""Whether tensors have changed: a number of each, which another content has by chance alone.

    Σᵢ wᵢ·mᵢ mod 2⁶⁴,  m odd and random

over the 32-bit words of a tensor's bytes (multilinear hashing, arXiv:1202.4961, section 2), in blocks of as many words
as there are multipliers, and again over the blocks' sums, until one is left. It sees order, signs and single bits: a
sum of bits misses what is rolled or exchanged, and of products with 64-bit words two that change their sign.
"""

import functools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ._registry import call, define_op

KERNELS = {"CPU": "csrc/checksum_cpu.cpp"}

BLOCK = 1 << 11
"""Words of a block, whose multipliers stay in a core's nearest cache."""


def checksum_reference(tensors: Sequence[Tensor], multipliers: Tensor) -> Tensor:
    sums = [_checksum(tensor, multipliers) for tensor in tensors]
    return torch.stack(sums) if sums else multipliers.new_empty(0)


def _checksum(tensor: Tensor, multipliers: Tensor) -> Tensor:
    sums = tensor.detach().contiguous().view(-1).view(torch.uint8)
    while True:
        read = sums.view(torch.uint8)
        words = F.pad(read, (0, -len(read) % (4 * len(multipliers)))).view(torch.int32)
        sums = (words.view(-1, len(multipliers)) * multipliers).sum(dim=1)
        if len(sums) <= 1:
            return sums.sum()


def checksum(tensors: Sequence[Tensor]) -> list[int]:
    """What tells whether the contents of tensors have changed, in their order.

    Two contents of the same dtype and shape agree by chance once in 2³² at most, for each time that blocks are joined.

    Args:
        tensors: of any shapes, strides and dtypes, strided and on one device.

    Returns:
        An integer of 64 bits, signed, for each; 0 of a tensor without elements, and of all on the meta device. It does
        not depend on strides, the device or the number of threads. There is no gradient.
    """
    if not tensors or tensors[0].is_meta:
        return [0] * len(tensors)
    sums: Tensor = call(torch.ops.fastgen.checksum.default, tensors, multipliers_on(tensors[0].device))
    found: list[int] = sums.tolist()
    return found


@functools.cache
def multipliers_on(device: torch.device) -> Tensor:
    """int64 (BLOCK,), odd and random, always the same ones."""
    drawn = 2 * np.random.RandomState(0).randint(0, 1 << 63, BLOCK, dtype=np.int64) + 1  # wraps modulo 2⁶⁴
    with torch.inference_mode(False):
        return torch.from_numpy(drawn).to(device)


def _fake(tensors: Sequence[Tensor], multipliers: Tensor) -> Tensor:
    return multipliers.new_empty(len(tensors))


define_op(
    "checksum(Tensor[] tensors, Tensor multipliers) -> Tensor",
    kernels=KERNELS,
    reference=checksum_reference,
    fake=_fake,
    backward=None,
)
