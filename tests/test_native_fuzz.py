"""Compiled CPU kernels, called past the public functions: what a caller passes may be refused, but harms no memory.

``FASTGEN_FUZZ=20000 python -m pytest tests/test_native_fuzz.py`` runs as many cases instead of the usual few.
"""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import plans
from fastgen.ops.sample import PackedPlan
from fastgen.sampling.plan import Step
from fuzz.sanitized import build, compiler, reports
from parity import channels_last

CASES = int(os.environ.get("FASTGEN_FUZZ", "300"))
OPS = torch.ops.fastgen


@pytest.mark.slow
@pytest.mark.skipif(compiler() is None, reason="needs g++ with its sanitizer libraries (libasan, libubsan)")
def test_no_sanitizer_reports_a_case(tmp_path: Path) -> None:
    """Seeded: the same cases every time. Enough of them are answered, so that kernels did run."""
    seen: list[str] = []
    found = list(reports(build(tmp_path), 0, 0, CASES, seen))
    assert not found, f"{len(found)} of {CASES}\n" + "\n".join(map(str, found))
    assert len(seen) > 0.9 * CASES
    outcomes = Counter(line.split(" ", 1)[1] for line in seen)
    sampling = ("sample", "sample_between")
    for op in (
        "rsample_kl",
        "batch_norm_apply",
        "masked_conv2d",
        "gated_activation",
        "discretized_logistic_mixture",
        "conv_transpose2d_products",
        "conv_transpose2d_image",
        *sampling,
    ):
        assert outcomes[f"{op}: answered"]
        assert outcomes[f"{op}: RuntimeError"]


def _convolution(activation: str = "relu", **changed: Any) -> list[Any]:
    O = changed.pop("O", 4)
    channels = {"gated": O // 2, "concat_elu": 2 * O}.get(activation, O)
    named = {
        "x": torch.randn(2, 4, 5, 6), "weight": torch.randn(O, 4, 3, 3), "bias": torch.randn(O),
        "residual": torch.randn(2, channels, 5, 6), "mask": "B", "activation": activation, "color_groups": 1,
        "groups_order": "contiguous", "save_preactivation": True,
    }  # fmt: skip
    assert changed.keys() <= named.keys()
    return list({**named, **changed}.values())


def _backward(activation: str = "relu", **changed: Any) -> list[Any]:
    O = changed.pop("O", 4)
    channels = {"gated": O // 2, "concat_elu": 2 * O}.get(activation, O)
    named = {
        "grad_y": torch.randn(2, channels, 5, 6), "preactivation": torch.randn(2, O, 5, 6),
        "x": torch.randn(2, 4, 5, 6), "weight": torch.randn(O, 4, 3, 3), "mask": "B", "activation": activation,
        "color_groups": 1, "groups_order": "contiguous", "output_mask": [True, True, True],
    }  # fmt: skip
    assert changed.keys() <= named.keys()
    return list({**named, **changed}.values())


def _rsample(grad_kl: Tensor) -> list[Any]:
    return [torch.randn(4, 6), grad_kl, torch.randn(4, 6), torch.randn(4, 6), torch.tensor([1])]


HALF = torch.float16
CALLS: list[tuple[Callable[..., Any], list[Any], str]] = [
    (OPS.rsample_kl_backward, _rsample(torch.randn(1, 4)), "grad_kl"),
    (OPS.rsample_kl_backward, _rsample(torch.randn(2, 2)), "grad_kl"),
    (OPS.rsample_kl_backward, _rsample(torch.randn(4).double()), "grad_kl"),
    (OPS.rsample_kl, [torch.ones(2, 3), torch.ones(2, 3).half(), torch.tensor([1])], "logvar"),
    (OPS.rsample_kl, [torch.ones(0, 3), torch.ones(0, 3), torch.tensor([1, 2])], "seed"),
    (OPS.masked_conv2d, _convolution(residual=torch.randn(2, 4, 5, 6, dtype=HALF)), "residual"),
    (OPS.masked_conv2d, _convolution(bias=torch.randn(3)), "bias"),
    (OPS.masked_conv2d, _convolution(bias=torch.randn(4, dtype=HALF)), "bias"),
    (OPS.masked_conv2d, _convolution(weight=torch.randn(4, 4, 2, 2)), "weight"),
    (OPS.masked_conv2d, _convolution(weight=torch.randn(4, 4, 0, 3)), "weight"),
    (OPS.masked_conv2d, _convolution(weight=torch.randn(4, 4, 3)), "weight"),
    (OPS.masked_conv2d, _convolution(weight=torch.randn(4, 4, 3, 3, dtype=HALF)), "weight"),
    (OPS.masked_conv2d, _convolution(color_groups=0), "color_groups"),
    (OPS.masked_conv2d, _convolution(color_groups=2**62), "color_groups"),
    (OPS.masked_conv2d, _convolution(color_groups=3), "color_groups"),
    (OPS.masked_conv2d, _convolution(mask="C"), "mask"),
    (OPS.masked_conv2d, _convolution(activation="swish"), "activation"),
    (OPS.masked_conv2d, _convolution(groups_order="random"), "groups_order"),
    (OPS.masked_conv2d, _convolution("gated", O=1, x=channels_last(torch.randn(2, 4, 5, 6))), "weight"),
    (OPS.masked_conv2d_backward, _backward(preactivation=torch.randn(2, 4, 5, 6, dtype=HALF)), "preactivation"),
    (OPS.masked_conv2d_backward, _backward(preactivation=torch.randn(2, 4, 5, 6).double()), "preactivation"),
    (OPS.masked_conv2d_backward, _backward(grad_y=torch.randn(2, 4, 5, 6, dtype=HALF)), "grad_y"),
    (OPS.masked_conv2d_backward, _backward(x=torch.randn(2, 4, 5, 6, dtype=HALF)), "weight"),
    (OPS.masked_conv2d_backward, _backward(x=torch.randn(2, 4, 30)), "x"),
    (OPS.masked_conv2d_backward, _backward(output_mask=[]), "output_mask"),
    (OPS.masked_conv2d_backward, _backward(color_groups=0), "color_groups"),
    (OPS.masked_conv2d_backward, _backward(weight=torch.randn(4, 4, 3, 0)), "weight"),
    (OPS.gated_activation, [torch.ones(2, 3)], "x"),
    (OPS.gated_activation, [torch.ones(2, 4, dtype=torch.int64)], "x"),
    (OPS.gated_activation_backward, [torch.ones(4), torch.ones(2, 4)], "grad_y"),
    (OPS.gated_activation_backward, [torch.ones(2, 2).double(), torch.ones(2, 4)], "grad_y"),
    (OPS.discretized_logistic_mixture, [torch.ones(1, 3, 2, 2), torch.zeros(1, 1, 2, 2).long(), 2**62], "levels"),
    (OPS.discretized_logistic_mixture, [torch.ones(1, 3, 2, 2), torch.zeros(1, 1, 2, 2).int(), 256], "values"),
    (
        OPS.discretized_logistic_mixture,
        [torch.ones(1, 1, 1, 1).expand(1, 3 * 2**40, 1, 1), torch.zeros(1, 1, 1, 1).long(), 256],
        "params",
    ),
    (
        OPS.discretized_logistic_mixture_backward,
        [torch.ones(4), torch.ones(1, 3, 2, 2), torch.zeros(1, 1, 2, 2).long(), 256],
        "grad_log_likelihood",
    ),
]


@pytest.mark.parametrize(("op", "args", "named"), CALLS)
def test_a_direct_call_is_checked(op: Callable[..., Any], args: list[Any], named: str) -> None:
    """Each of these read or wrote memory that was not its own, ended the process, or was computed as something else."""
    with pytest.raises(RuntimeError, match=rf"\b{named}: expected"):
        op.default(*args)  # type: ignore[attr-defined]


def _codes(**changed: int) -> tuple[Tensor, Tensor]:
    """Of a plan whose last map keeps ``keep`` rows of ``channels``."""
    codes, constants = plans.deep_plan().encode()
    last = 9 + 6 * (int(codes[8]) - 1)
    for name, value in changed.items():
        codes[last + ("kind", "rows", "columns", "channels", "keep").index(name)] = value
    return codes, constants


def test_a_plans_sizes_do_not_wrap() -> None:
    with pytest.raises(RuntimeError, match="plan: expected sizes that fit in memory"):
        PackedPlan(*_codes(keep=2**30, channels=2**30))
    for times in (25, 60):
        wide = plans.step_plan(2, *[Step("concat_elu")] * times, *[Step("gate")] * times)
        with pytest.raises(RuntimeError, match="plan: expected fewer channels"):
            PackedPlan(*wide.encode())


def _walk(**changed: Any) -> list[Any]:
    plan = plans.deep_plan(channels=8)
    codes, constants = plan.encode()
    shape = (2, *plan.shape)
    named = {
        "codes": codes, "constants": constants, "packed": OPS.sample_pack.default(codes, constants, ""),
        "state": OPS.sample_state.default(codes, constants, 2, 2), "given": [],
        "uniforms": torch.rand(shape, dtype=torch.float64), "table": torch.randn(1, 2, 1),
        "known": torch.zeros(0, dtype=torch.int64), "keep": torch.zeros(0, dtype=torch.bool), "temperature": 1.0,
        "components": 0, "values": torch.zeros(shape, dtype=torch.int64), "params": torch.zeros(0), "chunk": 2,
        "first": 0, "last": plan.shape[1],
    }  # fmt: skip
    return list({**named, **changed}.values())


def test_what_sample_is_given_is_checked() -> None:
    assert OPS.sample.default(*_walk()) == -1
    codes, constants = plans.deep_plan(channels=8).encode()
    for chunk in (2**61, 2**63 - 1):
        with pytest.raises((RuntimeError, OverflowError), match="expected sizes whose product fits in 64 bits"):
            OPS.sample_state.default(codes, constants, 4, chunk)
        with pytest.raises((RuntimeError, OverflowError), match="expected sizes whose product fits in 64 bits"):
            OPS.sample.default(*_walk(chunk=chunk))
    with pytest.raises(RuntimeError, match="chunk: expected at least 1, got 0"):
        OPS.sample.default(*_walk(chunk=0))
    with pytest.raises(RuntimeError, match="packed: expected"):
        OPS.sample.default(*_walk(packed=torch.zeros(1).expand(100)))
    whole = torch.zeros(max(len(constants), _walk()[3].numel()))
    whole[: len(constants)] = constants
    with pytest.raises(RuntimeError, match="state: expected memory of its own"):
        OPS.sample.default(*_walk(constants=whole[: len(constants)], state=whole[: _walk()[3].numel()]))
    values = torch.zeros(2, 1, 6, 8, dtype=torch.int64)
    with pytest.raises(RuntimeError, match="values: expected memory of its own"):
        OPS.sample.default(*_walk(values=values, uniforms=values.view(torch.float64)))
