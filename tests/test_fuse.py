"""fuse: a plain DCGAN generator and hand-written PixelCNNs compute and learn what they did, faster."""

import copy

import pytest
import torch
from torch import Tensor, nn

import fastgen
from fastgen import sampling
from fastgen.distributions import Categorical
from fusable import (
    ByData,
    ByProduct,
    DirectGenerator,
    Generator,
    PixelCNN,
    assert_same_results,
    live,
    parametrized,
    twins,
    weights_init,
)
from parity import assert_parity

MODELS = {
    "DCGAN": (Generator, lambda: torch.randn(4, 10, 1, 1)),
    "DCGAN, layers called directly": (DirectGenerator, lambda: torch.randn(4, 10)),
    "PixelCNN, mask into the data": (lambda: PixelCNN(ByData), lambda: torch.randn(3, 1, 8, 9)),
    "PixelCNN, mask times weight": (lambda: PixelCNN(ByProduct), lambda: torch.randn(3, 1, 8, 9)),
    "PixelCNN, parametrized": (lambda: PixelCNN(parametrized), lambda: torch.randn(3, 1, 8, 9)),
}


@pytest.mark.parametrize("name", MODELS)
def test_results_gradients_and_statistics(name: str, device: str) -> None:
    make, inputs = MODELS[name]
    fused, plain, exact, report = twins(make().to(device))
    assert report.swapped
    assert report.left == []
    for training in (True, False):
        for model in (fused, plain, exact):
            model.train(training)
        assert_same_results(fused, plain, exact, inputs)


def train(model: nn.Module, optimizer: type[torch.optim.Optimizer], batches: list[Tensor], **options: float) -> None:
    steps = optimizer(model.parameters(), **options)
    dtype = next(model.parameters()).dtype
    for batch in batches:
        y = model(batch.to(dtype))
        steps.zero_grad()
        (y - torch.linspace(-1, 1, y.numel(), dtype=dtype).view(y.shape)).square().mean().backward()
        steps.step()


def learned(model: nn.Module) -> list[Tensor]:
    """Weights of layers, vectors, running statistics: each kind together, and how many batches were counted."""
    parameters = live(model, {name: p.detach() for name, p in model.named_parameters()}).values()
    buffers = [b for b in model.buffers() if b.dim() == 1]
    kinds = ([p for p in parameters if p.dim() > 1], [p for p in parameters if p.dim() == 1], buffers)
    counts = torch.stack([b for b in model.buffers() if b.dim() == 0]).to(buffers[0].dtype)
    return [*(torch.cat([tensor.flatten() for tensor in kind]) for kind in kinds), counts]


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("name", MODELS)
def test_twenty_steps_of_training(name: str, optimizer: type[torch.optim.Optimizer]) -> None:
    """Weights, running statistics and images after training; and the fused weights in an unfused model."""
    make, inputs = MODELS[name]
    fused, plain, exact, _ = twins(make())
    batches = [inputs() for _ in range(20)]
    options = {"lr": 0.05, "momentum": 0.5} if optimizer is torch.optim.SGD else {"lr": 1e-3, "eps": 1e-4}
    for model in (fused, plain, exact):
        train(model, optimizer, batches, **options)
    for one, two, three in zip(*map(learned, (fused, plain, exact)), strict=True):
        assert_parity(one, two, three)
    for training in (True, False):
        for model in (fused, plain, exact):
            model.train(training)
        x = inputs()
        with torch.no_grad():
            assert_parity(fused(x), plain(x), exact(x.double()))
    unfused = copy.deepcopy(fused) if "parametrized" in name else copy.deepcopy(plain)
    fastgen.unfuse(unfused)
    unfused.load_state_dict(fused.state_dict())
    assert_same_results(fused.eval(), unfused.eval(), copy.deepcopy(unfused).double(), inputs)


def test_an_optimizer_made_before_goes_on() -> None:
    model = Generator()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = [p.detach().clone() for p in model.parameters()]
    fastgen.fuse(model)
    model(torch.randn(4, 10, 1, 1)).square().sum().backward()
    optimizer.step()
    assert all(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_weight_initialisation_by_class_name() -> None:
    fused, plain = Generator(), Generator()
    fastgen.fuse(fused)
    for model in (fused, plain):
        torch.manual_seed(1)
        model.apply(weights_init)
    assert all(torch.equal(p, q) for p, q in zip(fused.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize("masked", [ByData, ByProduct, parametrized])
def test_the_sampler_compiles_a_fused_pixelcnn(masked: object) -> None:
    fused, plain, _, _ = twins(PixelCNN(masked).eval())  # type: ignore[arg-type]
    shape, distribution = (1, 6, 7), Categorical(3)
    one, two = (sampling.compile(model, shape, distribution, "[-1, 1]").sample(3, seed=2) for model in (fused, plain))
    assert torch.equal(one, two)
    assert sampling.verify(sampling.compile(fused, shape, distribution, "[-1, 1]"), n=2).same


def test_the_report_can_be_read() -> None:
    report = fastgen.fuse(nn.ModuleDict({"gen": Generator(), "pixels": PixelCNN(ByData)}))
    text = str(report)
    for line in (
        "gen.main.0, gen.main.1, gen.main.2",
        "conv_transpose2d_bn + relu, normalised in the load of gen.main.3",
        "gen.main.9, gen.main.10 ",
        "conv_transpose2d + tanh",
        "pixels.body.0, pixels.body.1 ",
        "masked_conv2d, mask A + relu [1]",
        "[1] the mask is written into the weight at each call, as it was; gradients of dead taps are exactly zero",
    ):
        assert line in text
    assert "left" not in text
    assert all(len(line) < 200 for line in text.splitlines())
