"""discretized_logistic_mixture's Triton kernels, compiled for every target."""

import pytest
import torch

from aot import TARGETS, assert_gates
from fastgen.ops.discretized_logistic_mixture_triton import (
    discretized_logistic_mixture_backward_triton,
    discretized_logistic_mixture_triton,
)

FORMS = (  # colours, components, dtype, layout
    (3, 10, torch.float32, torch.contiguous_format),
    (3, 10, torch.bfloat16, torch.channels_last),
    (1, 5, torch.float64, torch.contiguous_format),
)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("capability", TARGETS, ids=str)
def test_gates(capability: tuple[int, int], form: tuple[int, int, torch.dtype, torch.memory_format]) -> None:
    C, K, dtype, layout = form
    params = torch.empty(16, K * (10 if C == 3 else 3), 32, 32, dtype=dtype, device="meta").to(memory_format=layout)
    values = torch.empty(16, C, 32, 32, dtype=torch.uint8, device="meta")
    grad = torch.empty(16, 32, 32, dtype=torch.promote_types(dtype, torch.float32), device="meta")
    for binary in (
        *assert_gates(capability, discretized_logistic_mixture_triton, params, values, 256),
        *assert_gates(capability, discretized_logistic_mixture_backward_triton, grad, params, values, 256),
    ):
        assert binary.stack == 0
