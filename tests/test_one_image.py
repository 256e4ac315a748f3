"""Batches of one image, beside which torch reads layouts in another way."""

import copy

import pytest
import torch
from torch import nn

import fastgen
from ops import ops_run


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_instance_norm_before_a_transposed_convolution(batch: int, dtype: torch.dtype) -> None:
    """Torch's gradient of an instance norm is another where one image's arrives in channels_last, beside planes."""
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(32, 64, 3, 1, 1), nn.InstanceNorm2d(64), nn.SiLU(), nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.Tanh()
    )
    fused, exact = copy.deepcopy(plain), copy.deepcopy(plain).double()
    fastgen.fuse(fused)
    x, found = torch.randn(batch, 32, 16, 16), []
    for model in (fused, plain, exact):
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16 and model is not exact),
            ops_run() as ran,
        ):
            y = model(x.double() if model is exact else x)
        if model is fused:
            assert ran & {"conv_transpose2d_products", "winograd_to_large"}
        y.double().pow(3).sum().backward()
        found.append(plain_gradient(model))
    ours, torchs, true = found
    assert (ours - true).norm() <= 2 * (torchs - true).norm() + 1e-5 * true.norm()


def plain_gradient(model: nn.Sequential) -> torch.Tensor:
    gradient = model[0].weight.grad
    assert gradient is not None
    return gradient.double()  # type: ignore[no-any-return]
