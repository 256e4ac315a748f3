"""fuse and fastgen's own modules: torch.export with a batch of any size, and torch.fx, as of plain ones."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fastgen
from fastgen import models
from fastgen.nn import (
    ConvTranspose2dChain,
    DiscretizedLogisticMixture,
    GatedResidualBlock,
    GaussianRSample,
)
from fusable import (
    ByData,
    ByProduct,
    DirectGenerator,
    Generator,
    PixelCNN,
    Reparameterize,
    SampleAndKL,
    deconv_block,
    parametrized,
)

Inputs = Callable[[int], tuple[Tensor, ...]]


def fused(model: nn.Module) -> nn.Module:
    assert fastgen.fuse(model).swapped
    return model


class Method(nn.Module):
    """A method of a model as the forward of a module."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self.model, self.name)(x)


def images(n: int, channels: int = 1) -> Tensor:
    return torch.randint(0, 2, (n, channels, 8, 8))


def pixels(n: int) -> tuple[Tensor, ...]:
    return (torch.randn(n, 1, 8, 9),)


def vae(name: str) -> nn.Module:
    return Method(models.VAE(in_channels=1, levels=2, image_size=8, latent=2, hidden=[8]), name)


FUSED: dict[str, tuple[Callable[[], nn.Module], Inputs]] = {
    "DCGAN": (Generator, lambda n: (torch.randn(n, 10, 1, 1),)),
    "DCGAN, weights larger than images": (lambda: Generator(10, 16), lambda n: (torch.randn(n, 10, 1, 1),)),
    "DCGAN, layers called directly": (DirectGenerator, lambda n: (torch.randn(n, 10),)),
    "a Sequential": (lambda: deconv_block(3, 4), lambda n: (torch.randn(n, 3, 4, 5),)),
    "PixelCNN, mask into the data": (lambda: PixelCNN(ByData), pixels),
    "PixelCNN, mask times weight": (lambda: PixelCNN(ByProduct), pixels),
    "PixelCNN, parametrized": (lambda: PixelCNN(parametrized), pixels),
    "z": (Reparameterize, lambda n: (torch.randn(n, 5), torch.randn(n, 5))),
    "z and KL": (SampleAndKL, lambda n: (torch.randn(n, 5), torch.randn(n, 5))),
}
OWN: dict[str, tuple[Callable[[], nn.Module], Inputs]] = {
    "GaussianRSample": (GaussianRSample, lambda n: (torch.randn(n, 5), torch.randn(n, 5))),
    "GatedResidualBlock": (lambda: GatedResidualBlock(1, 3), pixels),
    "ConvTranspose2dChain": (lambda: ConvTranspose2dChain(deconv_block(1, 3), *deconv_block(3, 2)), pixels),
    "DiscretizedLogisticMixture": (
        lambda: DiscretizedLogisticMixture(2, 2),
        lambda n: (torch.randn(n, 20, 8, 8), images(n, 3)),
    ),
    "PixelCNN": (lambda: models.PixelCNN(in_channels=1, levels=2, channels=4, layers=1), pixels),
    "GatedPixelCNN": (
        lambda: models.GatedPixelCNN(in_channels=1, levels=2, channels=4, layers=1, classes=3),
        lambda n: (*pixels(n), torch.randint(0, 3, (n,))),
    ),
    "VAE.elbo": (lambda: vae("elbo"), lambda n: (images(n),)),
    "VAE.decode": (lambda: vae("decode"), lambda n: (torch.randn(n, 2),)),
}


def first(result: object) -> Tensor:
    result = result[0] if isinstance(result, tuple) else result
    assert isinstance(result, Tensor)
    return result


def settled(model: nn.Module, inputs: Inputs) -> nn.Module:
    """In eval mode, with running statistics that differ from the initial ones."""
    model.train()(*inputs(6))
    return model.eval()


@pytest.mark.parametrize("name", [*FUSED, *OWN])
def test_a_program_for_any_batch(name: str) -> None:
    """Exported with a batch of 3, it computes at 1, 2, 5 and 33 what the module does, seeds included."""
    make, inputs = {**FUSED, **OWN}[name]
    model = settled(fused(make()) if name in FUSED else make(), inputs)
    given = inputs(3)
    batch = tuple({0: torch.export.Dim.DYNAMIC} for _ in given)
    program = torch.export.export(model, given, dynamic_shapes=batch).module()
    for n in (1, 2, 5, 33):
        x, results = inputs(n), []
        for each in (program, model):
            torch.manual_seed(n)
            results.append(first(each(*x)))
        assert len(results[0]) == n
        torch.testing.assert_close(*results)


@pytest.mark.parametrize("name", ["DCGAN", "DCGAN, layers called directly", "PixelCNN, mask times weight", "z"])
def test_symbolic_trace(name: str) -> None:
    """torch.fx sees the arguments of the class that was fused, and traces what it would have traced."""
    make, inputs = FUSED[name]
    model = settled(make(), inputs)
    plain = torch.fx.symbolic_trace(model)
    traced = torch.fx.symbolic_trace(fused(model))
    for n in (1, 4):
        x, results = inputs(n), []
        for each in (traced, plain):
            torch.manual_seed(n)
            results.append(each(*x))
        assert torch.equal(*results)
    assert [node.name for node in traced.graph.nodes] == [node.name for node in plain.graph.nodes]
