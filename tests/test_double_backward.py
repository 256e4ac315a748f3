"""Second derivatives: asked for before training starts, and refused by the layer's name."""

import copy

import pytest
import torch
from torch import Tensor, nn

from fastgen.nn import MaskedConv2d, check_double_backward


class Once(torch.autograd.Function):
    """The identity, which is differentiated once."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad.clone()


class Hidden(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Once.apply(x).square()


def critic() -> nn.Sequential:
    """Torch's own, of layers that change what they hold: running statistics, an estimate of a norm, random numbers."""
    norm = nn.utils.parametrizations.spectral_norm(nn.Linear(8 * 16, 1))
    body = (nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.LeakyReLU(0.2), nn.Dropout(), nn.Flatten())
    return nn.Sequential(*body, norm)


def test_torchs_own_layers_pass_and_nothing_changes() -> None:
    module, x = critic(), torch.randn(5, 3, 4, 4)
    before, generator = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    check_double_backward(module)
    check_double_backward(module, x)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    with torch.inference_mode():
        check_double_backward(nn.Linear(3, 1), torch.ones(2, 3))


def test_a_layer_that_refuses_is_named() -> None:
    compiled = nn.Linear(3, 3)
    compiled.compile(backend="eager")
    twice = "module: expected one that can be differentiated twice, "
    for module, inputs, message in (
        (nn.Sequential(nn.Linear(3, 3), compiled), (), r"but 1 \(Linear\) is compiled: torch.compile has first"),
        (torch.compile(nn.Linear(3, 3), backend="eager"), (), r"but itself \(OptimizedModule\) is compiled"),
        (nn.Sequential(MaskedConv2d(1, 2, 3)), (), r"but 0 \(MaskedConv2d\) runs an op of fastgen's"),
        (nn.Sequential(nn.Linear(3, 3), Hidden()), (torch.ones(2, 3),), "got: .*once_differentiable"),
    ):
        with pytest.raises(ValueError, match=twice + message):
            check_double_backward(module, *inputs)
    with pytest.raises(ValueError, match="inputs: expected at least one tensor in floating point, got none"):
        check_double_backward(nn.Embedding(3, 2), torch.tensor([1]))
    with pytest.raises(TypeError, match=r"module: expected a torch\.nn\.Module, got 3"):
        check_double_backward(3)  # type: ignore[arg-type]
