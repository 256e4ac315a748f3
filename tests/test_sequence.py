"""Sequences, in a chain and in what fuse swapped: whatever stands in them, they compute what nn.Sequential computes."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fastgen
from fastgen.nn import ConvTranspose2dBatchNorm, ConvTranspose2dChain
from fastgen.nn.sequence import step_at
from ops import ops_run
from sizes import fuse_at_every_size


class Doubled(nn.Module):
    """A layer that nobody knows, and that writes over what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2)


def up(i: int, o: int) -> nn.Module:
    return nn.ConvTranspose2d(i, o, 4, 2, 1)


def normalised(i: int, o: int, *behind: nn.Module) -> list[nn.Module]:
    return [up(i, o), nn.BatchNorm2d(o), *behind]


def hooked(module: nn.Module, hook: Callable[..., None]) -> nn.Module:
    module.register_forward_pre_hook(hook)
    return module


def written(module: nn.Module, args: tuple[Tensor]) -> None:
    args[0].mul_(2)


MODULES: dict[str, Callable[[], list[nn.Module]]] = {
    "ELU in place": lambda: normalised(3, 8, nn.ELU(inplace=True)),
    "activations in place": lambda: [
        *normalised(3, 8, nn.ReLU(True)), *normalised(8, 8, nn.LeakyReLU(0.2, True)), up(8, 4), nn.ReLU(True),
    ],
    "in place after a norm": lambda: [*normalised(3, 8), Doubled(), *normalised(8, 4), nn.Dropout(0.5, inplace=True)],
    "in place after a convolution": lambda: [up(3, 8), nn.Dropout(0.5, inplace=True), up(8, 4), Doubled()],
    "in place after LeakyReLU": lambda: normalised(3, 8, nn.LeakyReLU(0.2), nn.Dropout(0.5, inplace=True), up(8, 4)),
    "in place after LeakyReLU alone": lambda: [up(3, 8), nn.LeakyReLU(0.2), nn.ELU(inplace=True), *normalised(8, 4)],
    "a writer after LeakyReLU": lambda: [*normalised(3, 8, nn.LeakyReLU(0.2)), Doubled(), up(8, 4), nn.Tanh()],
    "a container that writes": lambda: [up(3, 8), nn.LeakyReLU(0.2), nn.Sequential(nn.Flatten(1), nn.ELU(1.0, True))],
    "a hook that writes": lambda: [
        up(3, 8), nn.LeakyReLU(0.2), hooked(nn.Conv2d(8, 4, 3), written),
    ],
    "in place first": lambda: [nn.ReLU(True), *normalised(3, 8, nn.ReLU()), nn.Softplus()],
    "a writer after what hands on": lambda: [*normalised(3, 8, nn.LeakyReLU(0.2)), nn.Dropout(0.5), nn.ELU(1.0, True)],
    "identities": lambda: [up(3, 8), nn.Identity(), nn.BatchNorm2d(8), nn.Identity(), nn.ReLU(True), nn.Identity()],
    "nothing known": lambda: [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Upsample(scale_factor=2)],
    "mixed": lambda: [
        nn.Conv2d(3, 4, 3, padding=1), *normalised(4, 8, nn.ELU(inplace=True)), up(8, 6), nn.ReLU(), nn.Dropout2d(0.5),
        up(6, 4), nn.LeakyReLU(-0.5), *normalised(4, 4, nn.Tanh()), up(4, 2), nn.Sigmoid(),
    ],
}  # fmt: skip


def results(model: nn.Module, x: Tensor) -> list[Tensor]:
    """With gradients, and without; and the buffers after both."""
    torch.manual_seed(1)
    leaf = x.clone().requires_grad_()
    y = model(leaf * 1)
    grads = torch.autograd.grad((y * y).sum(), [leaf, *model.parameters()])
    with torch.no_grad():
        return [y.detach(), *grads, model(x.clone()), *(b.clone() for b in model.buffers())]


def chained(plain: nn.Sequential) -> nn.Module:
    return ConvTranspose2dChain(*copy.deepcopy(plain))


def fused(plain: nn.Sequential) -> nn.Module:
    model = copy.deepcopy(plain)
    fastgen.fuse(model)
    return model


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make", [chained, fused])
@pytest.mark.parametrize("name", MODULES)
def test_they_compute_what_sequential_computes(
    name: str, make: Callable[[nn.Sequential], nn.Module], training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fuse_at_every_size(monkeypatch.setattr)
    plain = nn.Sequential(*MODULES[name]()).double()
    x = torch.randn(3, 3, 5, 4, dtype=torch.float64)
    plain(x.clone())
    plain.train(training)
    model = make(plain)
    with ops_run() as ran:
        ours = results(model, x)
    torch.testing.assert_close(ours, results(plain, x))
    alone = {"nothing known", *(("in place after a convolution", "identities") if make is fused else ())}
    assert training or ("conv_transpose2d_bn" in ran) == (name not in alone)


def test_what_stands_alone_keeps_nothing_that_may_be_written_over() -> None:
    """ReLU keeps its result, in torch and in an op: writing over it fails in both, and is not silently wrong."""
    for make in (chained, nn.Sequential):
        model = make(nn.Sequential(*normalised(3, 4, nn.ReLU()), Doubled()).eval())
        y = model(torch.randn(2, 3, 4, 4))
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


def test_steps() -> None:
    layers = [
        nn.Conv2d(3, 4, 3, padding=1), nn.ConvTranspose2d(4, 5, 4, 2, 1), nn.BatchNorm2d(5), nn.ELU(),
        nn.ConvTranspose2d(5, 6, 3, 2, 1, 1), nn.ReLU(), nn.Dropout(0.0), nn.ConvTranspose2d(6, 2, 2),
        nn.LeakyReLU(-0.5), ConvTranspose2dBatchNorm(2, 2, 2),
    ]  # fmt: skip

    def kinds(everything: bool) -> list[str]:
        names, i = [], 0
        while i < len(layers):
            step = step_at(layers, i, everything=everything)
            names.append(type(step or layers[i]).__name__)
            i = step.end if step else i + 1
        return names

    others = ["Conv2d", "Step", "ELU", "Step", "Dropout"]
    assert kinds(True) == [*others, "Step", "LeakyReLU", "Step"]
    assert kinds(False) == [*others, "ConvTranspose2d", "LeakyReLU", "ConvTranspose2dBatchNorm"]
    layers[1].register_forward_hook(lambda *_: None)
    assert kinds(True)[:4] == ["Conv2d", "ConvTranspose2d", "BatchNorm2d", "ELU"]
    assert step_at([nn.ConvTranspose2d(3, 4, 2), nn.BatchNorm2d(5)], 0) is None


def test_a_chain_calls_what_is_watched() -> None:
    """A hook on a layer, and one on all modules."""
    chain = ConvTranspose2dChain(*normalised(3, 4, nn.ReLU()), up(4, 2))
    seen: list[str] = []
    note: Callable[..., None] = lambda module, *_: seen.append(type(module).__name__)  # noqa: E731
    handle = chain[1].register_forward_hook(note)
    chain(torch.randn(2, 3, 4, 4))
    assert seen == ["BatchNorm2d"]
    handle.remove()
    seen.clear()
    handle = nn.modules.module.register_module_forward_hook(note)
    try:
        chain(torch.randn(2, 3, 4, 4))
    finally:
        handle.remove()
    assert seen == ["ConvTranspose2d", "BatchNorm2d", "ReLU", "ConvTranspose2d", "ConvTranspose2dChain"]
