"""Second derivatives: asked for before training starts, and refused by the layer's name."""

import copy

import pytest
import torch
from torch import Tensor, nn

import fastgen
from fastgen.nn import check_double_backward, double_backward
from fusable import ByProduct, SampleAndKL
from ops import assert_runs
from sizes import fuse_at_every_size

OPS = ("masked_conv2d", "conv_transpose2d_bn", "rsample_kl_drawn")


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


def test_a_layer_that_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = nn.Linear(3, 3)
    compiled.compile(backend="eager")
    twice = "module: expected one that can be differentiated twice, "
    for module, inputs, message in (
        (nn.Sequential(nn.Linear(3, 3), compiled), (), r"but 1 \(Linear\) is compiled: torch.compile has first"),
        (torch.compile(nn.Linear(3, 3), backend="eager"), (), r"but itself \(OptimizedModule\) is compiled"),
        (nn.Sequential(nn.Linear(3, 3), Hidden()), (torch.ones(2, 3),), "got: .*once_differentiable"),
    ):
        with pytest.raises(ValueError, match=twice + message):
            check_double_backward(module, *inputs)
    monkeypatch.setattr(double_backward, "is_shared", lambda group: True)
    with pytest.raises(ValueError, match=rf"{twice}but 0.1 \(SyncBatchNorm\) shares its batch with other processes"):
        check_double_backward(nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.SyncBatchNorm(3))))
    with pytest.raises(ValueError, match="inputs: expected at least one tensor in floating point, got none"):
        check_double_backward(nn.Embedding(3, 2), torch.tensor([1]))
    with pytest.raises(TypeError, match=r"module: expected a torch\.nn\.Module, got 3"):
        check_double_backward(3)  # type: ignore[arg-type]


class Critic(nn.Module):
    """What fuse swaps, in one: a masked convolution, a chain of transposed ones, a sampling step."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 6, 4, 2, 1), nn.BatchNorm2d(6), nn.LeakyReLU(0.2))
        self.masked = nn.Sequential(ByProduct("B", 6, 6, 3), nn.ELU())
        self.up = nn.Sequential(
            nn.ConvTranspose2d(6, 5, 4, 2, 1), nn.BatchNorm2d(5), nn.ReLU(), nn.ConvTranspose2d(5, 2, 4, 2, 1),
            nn.BatchNorm2d(2), nn.Tanh(),
        )  # fmt: skip
        self.sample = SampleAndKL()

    def forward(self, x: Tensor) -> Tensor:
        z, kl = self.sample(*self.up(self.masked(self.down(x))).chunk(2, 1))
        return kl - z.flatten(1).mean(1) * 0  # whose noise is another one, fused


@pytest.mark.parametrize("training", [True, False])
def test_a_penalty_on_a_fused_critic_is_that_on_the_critic(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through every op that fuse swaps in, in training and in evaluation, to every parameter."""
    fuse_at_every_size(monkeypatch.setattr)
    plain = Critic().double().train(training)
    fused = copy.deepcopy(plain)
    assert len(fastgen.fuse(fused).swapped) == 4
    x = torch.randn(3, 1, 6, 6, dtype=torch.float64)
    check_double_backward(fused, x)

    def penalty(model: nn.Module) -> list[Tensor]:
        at = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(model(at).sum(), at, create_graph=True)
        loss = (grad.flatten(1).norm(dim=1) - 1).square().mean()
        grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
        return [loss.detach(), *grads]

    with assert_runs(*(getattr(torch.ops.fastgen, name).default for name in OPS), backward=False):
        ours = penalty(fused)
    assert max(float(grad.abs().max()) for grad in ours[1:]) > 0.01
    torch.testing.assert_close(ours, penalty(plain))
