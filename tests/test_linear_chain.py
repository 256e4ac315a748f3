"""LinearChain, and fuse: perceptrons as one op on a CPU."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import spectral_norm

import fastgen
from fastgen.fusing import forward_rewrite
from fastgen.models import GAN, VAE
from fastgen.models.networks import mlp
from fastgen.nn import Conv2dChain, LinearChain
from fastgen.nn.perceptron import perceptron_at
from ops import assert_compiles, assert_runs, ops_run
from parity import assert_parity
from rounding import Moved

OP = torch.ops.fastgen.mlp
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "in place": lambda: nn.ReLU(inplace=True),
    "leaky": lambda: nn.LeakyReLU(0.3),
    "tanh": nn.Tanh,
    "identity": nn.Identity,
}


def layers(activation: Callable[[], nn.Module] = nn.ReLU) -> list[nn.Module]:
    """Two perceptrons with an activation between them, then one layer alone."""
    first = [nn.Linear(70, 90), activation(), nn.Linear(90, 80, bias=False), activation()]
    return [*first, nn.Linear(80, 100, bias=False), activation(), nn.Linear(100, 40), activation(), nn.Linear(40, 9)]


class Written(nn.Module):
    """A forward of one's own, which reads what a layer gives once more."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(70, 90), nn.Linear(90, 90), nn.Linear(90, 90)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        s = 2 * h
        return self.third(torch.tanh(self.second(F.relu(h, inplace=True)))) + h + s


def by_chain(model: nn.Module) -> nn.Module:
    assert isinstance(model, nn.Sequential)
    return LinearChain(OrderedDict(copy.deepcopy(model)._modules))


def by_fuse(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    assert fastgen.fuse(model).swapped
    return model


def results(model: nn.Module, x: Tensor) -> list[Tensor]:
    """What it computes, and all gradients."""
    leaf = x.detach().clone().requires_grad_()
    y = model(leaf)
    return [y.detach(), *torch.autograd.grad(y.sigmoid().sum(), [leaf, *model.parameters()])]


def assert_same(model: nn.Module, plain: nn.Module, x: Tensor) -> None:
    exact = copy.deepcopy(plain).double()
    moved = Moved(lambda: results(exact, x.double()), torch.float32)
    for i, (one, other, right) in enumerate(
        zip(results(model, x), results(plain, x), results(exact, x.double()), strict=True)
    ):
        assert_parity(one, other, right, moved[i])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("made", [by_chain, by_fuse])
def test_it_computes_what_the_layers_do(made: Callable[[nn.Module], nn.Module], activation: str) -> None:
    """It has the layers' state_dict, which it loads."""
    plain = nn.Sequential(*layers(ACTIVATIONS[activation]))
    model, x = made(plain), torch.randn(12, 70)
    assert model.state_dict().keys() == plain.state_dict().keys()
    with assert_runs(OP.default):
        assert_same(model, plain, x)
    with torch.no_grad(), ops_run() as ran:
        torch.testing.assert_close(model(x), plain(x), atol=1e-5, rtol=1e-5)
    assert ran == {"mlp"}
    found = model(x)
    assert found.is_contiguous()
    found.sub_(1).sum().backward()  # nothing keeps the result for its gradient


def test_a_forward_of_ones_own() -> None:
    """An activation that writes over what others read stays before them."""
    plain, x = Written(), torch.randn(5, 70)
    with assert_runs(OP.default):
        assert_same(by_fuse(plain), plain, x)
    assert forward_rewrite.has_direct_layers(plain)
    single = nn.Module()
    single.only = nn.Linear(200, 200)
    assert not forward_rewrite.has_direct_layers(single)


def test_what_no_gradient_reads_may_be_written_over() -> None:
    """As torch's layers keep no bias, no input of what is frozen, and no weight where the input needs no gradient."""
    plain = nn.Sequential(nn.Linear(90, 90), nn.Tanh(), nn.Linear(90, 90))

    def frozen_in_a_residual(model: Any, x: Tensor) -> Tensor:
        model.requires_grad_(False)
        h = (x * 1).requires_grad_(False) + x.clone().requires_grad_()
        h.add_(model(h))
        return h

    def biases(model: Any, x: Tensor) -> Tensor:
        y: Tensor = model(x)
        with torch.no_grad():
            model[0].bias.clamp_(-0.01, 0.01)
            model[2].bias.zero_()
        return y

    def first_weight(model: Any, x: Tensor) -> Tensor:
        y: Tensor = model(x)
        with torch.no_grad():
            model[0].weight.mul_(2)
        return y

    def first_layer_frozen(model: Any, x: Tensor) -> Tensor:
        model[0].requires_grad_(False)
        y: Tensor = model(x)
        x.zero_()
        return y

    for way in (frozen_in_a_residual, biases, first_weight, first_layer_frozen):
        grads = []
        for model in (copy.deepcopy(plain), by_chain(plain)):
            x = torch.linspace(-1, 1, 4 * 90).view(4, 90)
            way(model, x).square().sum().backward()
            grads.append({name: each.grad for name, each in model.named_parameters()})
        torch.testing.assert_close(grads[1], grads[0], atol=1e-4, rtol=1e-4)


def test_gradient_penalty() -> None:
    plain = nn.Sequential(*layers(nn.Tanh))
    model, x = by_chain(plain), torch.randn(6, 70)

    def penalty(model: nn.Module) -> list[Tensor]:
        leaf = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(model(leaf).sum(), leaf, create_graph=True)
        loss = grad.norm(dim=1).sub(1).square().sum()
        return [
            each for each in torch.autograd.grad(loss, [*model.parameters()], allow_unused=True) if each is not None
        ]

    with assert_runs(OP.default, backward=False):
        found = penalty(model)
    torch.testing.assert_close(found, penalty(plain), atol=1e-5, rtol=1e-3)


def test_the_report_says_so() -> None:
    model = nn.Sequential(*layers(nn.Tanh))
    report = fastgen.fuse(model)
    assert [(row.path, row.now) for row in report.swapped] == [
        ("0, 1, 2", "linear + tanh + linear as one op, where that pays"),
        ("4, 5, 6", "linear + tanh + linear as one op, where that pays"),
    ]
    report.undo()
    model[1].register_forward_hook(lambda *_: None)
    assert [row.path for row in fastgen.fuse(model).swapped] == ["2, 3, 4"]  # the last two are small


class Own(nn.Linear):
    """Somebody's layer."""


def _pruned() -> nn.Module:
    return prune.random_unstructured(nn.Linear(90, 90), "weight", 0.5)


def _held() -> nn.Module:
    """Its weight is a tensor that is no parameter."""
    layer = nn.Linear(90, 90)
    weight = layer.weight.detach()
    del layer.weight
    layer.register_buffer("weight", weight)
    return layer


def _without_a_bias() -> nn.Module:
    layer = nn.Linear(90, 90)
    bias = layer.bias.detach()
    del layer.bias
    layer.bias = bias  # type: ignore[assignment]
    return layer


OTHERS = {
    "a subclass": lambda: Own(90, 90),
    "a parametrization": lambda: spectral_norm(nn.Linear(90, 90)).eval(),
    "pruned": _pruned,
    "a buffer": _held,
    "an attribute": _without_a_bias,
    "another layer": lambda: nn.Bilinear(90, 90, 90),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("place", [0, 2])
def test_what_stays_as_it_is(kind: str, place: int) -> None:
    modules = [nn.Linear(90, 90), nn.ReLU(), nn.Linear(90, 90)]
    modules[place] = OTHERS[kind]()
    assert perceptron_at(modules, 0) is None
    if kind == "another layer":
        return
    x = torch.randn(4, 90)
    with ops_run() as ran:
        assert torch.equal(LinearChain(*modules)(x), nn.Sequential(*modules)(x))
    assert not ran


def test_layers_that_do_not_fit_or_know_no_activation() -> None:
    large = nn.Linear(90, 90)
    for modules in (
        [large, nn.ELU(), large],
        [large, nn.Dropout(), large],
        [large, nn.ReLU()],
        [large, large, nn.ReLU()],
        [large, nn.ReLU(), nn.Linear(80, 110)],
        [nn.Linear(0, 90), nn.ReLU(), nn.Linear(90, 110)],
        [nn.Linear(110, 90), nn.ReLU(), nn.Linear(90, 0)],
        [nn.Linear(60, 60), nn.ReLU(), nn.Linear(60, 60)],
        [nn.Linear(90, 90, device="meta"), nn.ReLU(), nn.Linear(90, 90, device="meta")],
        [large.to(torch.float64), nn.LeakyReLU(-0.1), large],
    ):
        assert perceptron_at(modules, 0) is None
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        LinearChain(nn.Linear(90, 90), nn.ReLU(), nn.Linear(80, 110))(torch.randn(3, 90))


def test_where_it_does_not_run() -> None:
    """Of other dimensions and dtypes, in transforms, where somebody looks on."""
    plain = nn.Sequential(nn.Linear(90, 90), nn.ReLU(), nn.Linear(90, 90))
    model, x = by_chain(plain), torch.randn(4, 90)
    with ops_run() as ran:
        for other in (x[0], x[:, None]):
            assert torch.equal(model(other), plain(other))
        assert torch.equal(copy.deepcopy(model).double()(x.double()), copy.deepcopy(plain).double()(x.double()))
        torch.testing.assert_close(torch.func.jvp(model, (x,), (x,)), torch.func.jvp(plain, (x,), (x,)))
        torch.testing.assert_close(torch.vmap(model)(x), torch.vmap(plain)(x))
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            model(x[:, :3])
        with pytest.raises(RuntimeError, match="dtype"):
            model(x.double())
        model[1].register_forward_hook(lambda *_: None)  # type: ignore[operator]
        assert torch.equal(model(x), plain(x))
    assert not ran
    traced: Any = torch.fx.symbolic_trace(model)
    assert {node.op for node in traced.graph.nodes} == {"placeholder", "call_module", "output"}


def test_it_runs_in_compiled_programs_and_not_in_exported_ones() -> None:
    plain = nn.Sequential(*layers())
    model, x = by_chain(plain), torch.randn(6, 70)
    assert_compiles((OP.default,), model, x)
    program = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    for count in (6, 3):
        torch.testing.assert_close(program(x[:count]), plain(x[:count]), atol=1e-5, rtol=1e-5)
    exported = torch.export.export(model, (x,))
    assert not any("fastgen" in str(node.target) for node in exported.graph.nodes)


def test_autocast_trains_parameters_in_float32() -> None:
    plain = nn.Sequential(*layers())
    model, x = by_chain(plain), torch.randn(6, 70)
    exact = copy.deepcopy(plain).double()
    with torch.autocast("cpu", torch.bfloat16), assert_runs(OP.default):
        found, expected = results(model, x), results(plain, x)
    for one, other, right in zip(found, expected, results(exact, x.double()), strict=True):
        assert one.dtype == other.dtype
        assert (one - right).norm() <= 2 * (other - right).norm()


def test_models_are_made_of_it() -> None:
    levels = torch.randint(2, (4, 1, 28, 28))
    with assert_runs(OP.default):
        model = VAE(1, image_size=28, levels=2)
        model.losses(levels)["nats"].sum().backward()
    assert type(mlp((2, 64, 64, 2), nn.ReLU)) is nn.Sequential  # small: to look at it at each call costs more
    with assert_runs(OP.default, backward=False):
        GAN(1, image_size=28).sample(4)
    with assert_runs(OP.default, backward=False):
        Conv2dChain(nn.Conv2d(3, 16, 4, 2, 1), nn.Flatten(), nn.Linear(64, 90), nn.ReLU(), nn.Linear(90, 70))(
            torch.randn(2, 3, 4, 4)
        )
