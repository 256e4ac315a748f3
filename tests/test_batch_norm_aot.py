"""batch_norm's Triton kernels, compiled for GPUs that are not here: between DCGAN's layers."""

import pytest
import torch
from torch import Tensor

from aot import TARGETS, assert_gates
from fastgen.ops.batch_norm_triton import (
    batch_norm_apply_backward_triton,
    batch_norm_apply_triton,
    batch_norm_finalize_backward_triton,
    batch_norm_finalize_triton,
    batch_norm_statistics_triton,
)

HALF = torch.bfloat16


def meta(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(size, dtype=dtype, device="meta")


@pytest.mark.parametrize("capability", TARGETS)
def test_vectors_and_images(capability: tuple[int, int]) -> None:
    C = 128
    y, vector = meta(128, C, 16, 16, dtype=HALF), meta(C)
    assert_gates(capability, batch_norm_statistics_triton, y)
    tracked = torch.empty((), dtype=torch.int64, device="meta")
    for channels_last in (True, False):
        args = (y, vector, vector, vector, "tanh", 0.0, channels_last)
        assert_gates(capability, batch_norm_apply_triton, *args)
    args = (y, y, vector, vector, vector, "relu", 0.0)
    assert_gates(capability, batch_norm_apply_backward_triton, *args)
    for momentum in (0.1, None):
        args = (vector, vector, vector, vector, vector, tracked, 2**15, momentum, 1e-5)
        assert_gates(capability, batch_norm_finalize_triton, *args)
    assert_gates(capability, batch_norm_finalize_backward_triton, vector, vector, vector, 2**15, 1e-5)
