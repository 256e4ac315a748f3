"""Every op that a plan can express, called in every way that its schema allows, is what it is in torch.

The ops come from the registry, and the calls from their schemas: a new meaning joins by itself, and fails here while
its arguments have no values.
"""

import pytest
import torch
from torch import Tensor, nn

from fastgen.sampling import UnsupportedModelError
from fastgen.sampling.compiled_sampler import build_plan
from fastgen.sampling.lowering import HANDLERS
from fastgen.sampling.native_executor import NativePlan
from parity import assert_parity
from schemas import REFUSED, Case, H, N, W, as_image, cases, features, overloads

#: Two of them are what a trace makes of changes in place; test_planned has these.
OPS = [name for name in HANDLERS if name not in ("fastgen.assign", "fastgen.part", "fastgen.fixed")]
LEVELS = 64
TABLE = torch.linspace(-1, 1, LEVELS)
VALUES = torch.randint(LEVELS, (N, 1, H, W), generator=torch.Generator().manual_seed(0))


class Calling(nn.Module):
    """Parameters are all that a call answers with."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case

    def forward(self, x: Tensor) -> Tensor:
        results = [y for y in self.case(features(x)) if y.numel()]
        if self.case.function._schema.name.split("::")[1] in FIRST:
            results = results[:1]
        return torch.cat([as_image(y.to(x.dtype)) for y in results], 1)


FIRST = (
    "native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "native_layer_norm",
    "log_sigmoid_forward", "max", "min", "masked_conv2d", "gated_residual_block",
    "image_lstm", "native_group_norm", "max_pool2d_with_indices",
)  # fmt: skip


def assert_meaning(model: nn.Module, eager: Tensor) -> None:
    """In float32, by compiled code, as accurate as torch."""
    with torch.no_grad():
        exact = model(TABLE[VALUES].double())
    plan = build_plan(model, (1, H, W), eager.shape[1], wavefront=False).plan
    assert_parity(NativePlan(plan).see(VALUES, TABLE[None], []), eager, exact)


@pytest.mark.parametrize("name", OPS)
def test_every_call_of_a_schema(name):
    for function in overloads(name):
        form, planned = str(function).split(".", 1)[1], 0
        reason = REFUSED.get(form, REFUSED.get(name.split(".")[1]))
        for case in cases(function):
            model = Calling(case)
            try:
                eager = model(TABLE[VALUES])
            except (RuntimeError, NotImplementedError, IndexError, ValueError):
                continue  # torch itself takes no such call
            try:
                assert_meaning(model, eager)
                planned += 1
            except UnsupportedModelError as error:
                if reason is None or reason not in str(error):
                    raise
            except AssertionError as error:
                raise AssertionError(f"{case}: {error}") from None
        assert planned > 0 or form in REFUSED, f"{form}: no case of it is planned"


def test_an_argument_without_values_is_noticed():
    with pytest.raises(KeyError, match=r"scatter.value.index: no values"):
        list(cases(torch.ops.aten.scatter.value))
