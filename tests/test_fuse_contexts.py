"""fuse: a forward is rewritten only where a trace of it lost nothing that Python did: contexts, switches, questions."""

import copy
import re
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, nn
from torch import is_grad_enabled as asks

import fastgen
from parity import assert_parity


class Net(nn.Module):
    """Layers that fuse, and things that a forward may ask about."""

    FACTOR = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(96, 96), nn.Linear(96, 12), nn.Linear(12, 5)
        self.drop, self.inner, self.body = nn.Dropout(0.5), nn.Module(), nn.Sequential(nn.Linear(12, 12))
        self.inner.layer, self.inner.scale = nn.Linear(12, 12), 1.0
        self.temperature, self.optional = 1.0, None
        self.register_module("skip", None)

    @property
    def twice(self) -> float:
        return 2 * self.temperature

    def helper(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(F.relu(self.first(x)))) / self.temperature


def net(forward: Callable[..., Tensor]) -> nn.Module:
    """A network of a class of its own with this forward."""
    return type("Net", (Net,), {"forward": forward})()


def no_grad(self: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        x = self.second(F.relu(self.first(x)))
    return self.last(x)


def inference(self: Net, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return self.last(self.second(F.relu(self.first(x))))


def autocast(self: Net, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return self.last(self.second(F.relu(self.first(x))))


def autocast_of_amp(self: Net, x: Tensor) -> Tensor:
    with torch.amp.autocast("cpu", dtype=torch.bfloat16):
        return self.last(self.second(F.relu(self.first(x))))


def fork(self: Net, x: Tensor) -> Tensor:
    with torch.random.fork_rng():
        x = F.dropout(x, 0.5)
    return self.last(self.second(F.relu(self.first(x))))


def switch(self: Net, x: Tensor) -> Tensor:
    torch.set_grad_enabled(False)
    x = self.second(F.relu(self.first(x)))
    torch.set_grad_enabled(True)
    return self.last(x)


def seed(self: Net, x: Tensor) -> Tensor:
    torch.manual_seed(0)
    return self.last(F.dropout(self.second(F.relu(self.first(x)))))


def is_tensor(self: Net, x: Tensor) -> Tensor:
    x = 2 * x if torch.is_tensor(x) else x
    return self.last(self.second(F.relu(self.first(x))))


def other_name(self: Net, x: Tensor) -> Tensor:
    x = self.second(F.relu(self.first(x)))
    return self.last(F.relu(x) if asks() else torch.tanh(x))


def checkpoint(self: Net, x: Tensor) -> Tensor:
    x = self.second(F.relu(self.first(x)))
    return self.last(torch.utils.checkpoint.checkpoint(self.body, x, use_reentrant=False))


def dtype(self: Net, x: Tensor) -> Tensor:
    return self.last(self.second(F.relu(self.first(x)))).to(torch.get_default_dtype())


def module_at_hand(self: Net, x: Tensor) -> Tensor:
    functions = torch
    functions.set_grad_enabled(False)
    x = self.second(F.relu(self.first(x)))
    functions.set_grad_enabled(True)
    return self.last(x)


def dropout(self: Net, x: Tensor) -> Tensor:
    x = F.dropout(self.second(F.relu(self.first(x))), p=self.drop.p, training=self.drop.training)
    return self.last(x)


def inner_number(self: Net, x: Tensor) -> Tensor:
    return self.last(self.second(F.relu(self.first(x))) * self.inner.scale)


def of_class(self: Net, x: Tensor) -> Tensor:
    return self.last(self.second(F.relu(self.first(x)))) * self.__class__.FACTOR


def length(self: Net, x: Tensor) -> Tensor:
    return self.last(self.second(F.relu(self.first(x)))) * len(self.body)


def indexed(self: Net, x: Tensor) -> Tensor:
    return self.last(self.body[0](self.second(F.relu(self.first(x)))))


def forward_alone(self: Net, x: Tensor) -> Tensor:
    return self.last(self.second(F.relu(self.first.forward(x))))


def helper(self: Net, x: Tensor) -> Tensor:
    return self.last(self.helper(x))


class Inherited(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


LEFT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    **{each.__name__: (lambda each=each: net(each), "a with or a try") for each in (
        no_grad, inference, autocast, autocast_of_amp, fork,
    )},
    "switch": (lambda: net(switch), r"uses torch\.set_grad_enabled, which is not torch's or no function that a trace"),
    "seed": (lambda: net(seed), r"uses torch\.manual_seed"),
    "is_tensor": (lambda: net(is_tensor), r"uses torch\.is_tensor"),
    "other name": (lambda: net(other_name), r"asks torch for its state \(is_grad_enabled\)"),
    "checkpoint": (lambda: net(checkpoint), r"uses torch\.utils\.checkpoint\.checkpoint"),
    "default dtype": (lambda: net(dtype), r"uses torch\.get_default_dtype"),
    "torch at hand": (lambda: net(module_at_hand), "uses torch, which"),
    "dropout": (lambda: net(dropout), r"reads self\.drop\.p, which may change"),
    "number of a layer": (lambda: net(inner_number), r"reads self\.inner\.scale, which may change"),
    "number of its class": (lambda: net(of_class), "reads self.__class__, a type"),
    "length": (lambda: net(length), r"looks into self\.body"),
    "indexed": (lambda: net(indexed), r"looks into self\.body"),
    "forward alone": (lambda: net(forward_alone), r"reads self\.first\.forward"),
    "helper": (lambda: net(helper), "calls helper, and only its own code is looked at"),
    "super": (Inherited, r"uses super\(\)"),
}  # fmt: skip


def answers(model: nn.Module, x: Tensor) -> list[Tensor]:
    torch.manual_seed(1)
    y = model(x)
    if not y.requires_grad:
        return [y, torch.rand(1)]
    grads = torch.autograd.grad(y.float().square().sum(), list(model.parameters()), allow_unused=True)
    return [y, torch.rand(1), *(torch.zeros(()) if grad is None else grad for grad in grads)]


@pytest.mark.parametrize("case", LEFT)
def test_what_a_trace_would_lose_is_left(case: str) -> None:
    make, reason = LEFT[case]
    model = make()
    plain, state = copy.deepcopy(model), torch.get_rng_state()
    report = fastgen.fuse(model)
    assert torch.equal(state, torch.get_rng_state())
    assert report.swapped == []
    assert re.search(reason, report.left[0].reason), report.left
    x = torch.randn(4, 96)
    for change in (lambda m: m, nn.Module.eval, lambda m: setattr(m, "temperature", 2.0), lambda m: m.drop.train()):
        for each in (model, plain):
            change(each)
        for one, two in zip(answers(model, x), answers(plain, x), strict=True):
            assert torch.equal(one, two)


def nested(self: Net, x: Tensor) -> Tensor:
    return self.inner.layer(self.second(F.relu(self.first(x))))


def own_property(self: Net, x: Tensor) -> Tensor:
    return self.last(self.second(F.relu(self.first(x)))) * self.twice


def parts(self: Net, x: Tensor) -> Tensor:
    x = self.second(F.relu(self.first(x.flatten(1)))).contiguous(memory_format=torch.contiguous_format)
    x = self.skip(x) if self.skip is not None else x
    x = self.optional(x) if self.optional is not None else x
    return torch.cat([F.softplus(self.last(x)), x @ self.last.weight.T], 1)


def of_its_own(self: Net, x: Tensor) -> Tensor:
    return self.body(self.second(F.relu(self.first(x))))


class Doubled(nn.Sequential):
    def __call__(self, x: Tensor) -> Tensor:
        return 2 * super().__call__(x)


STYLES = {each.__name__: each for each in (Net.forward, nested, own_property, parts, of_its_own)}


@pytest.mark.parametrize("style", STYLES)
def test_what_a_trace_holds_is_swapped(style: str) -> None:
    """Numbers of its own and their kind, whether a layer is there, and a layer with a call of its own are respected."""
    model = net(STYLES[style])
    model.body = Doubled(nn.Linear(12, 12))
    plain = copy.deepcopy(model)
    assert [each.path for each in fastgen.fuse(model).swapped] == ["first, second"]
    x = torch.randn(64, 96)
    changes = (
        lambda m: m,
        lambda m: setattr(m, "temperature", 2.0),
        lambda m: setattr(m, "skip", nn.Tanh()),
        lambda m: setattr(m, "optional", nn.Tanh()),
    )
    for change in changes:
        for each in (model, plain):
            change(each)
        assert_parity(model(x), plain(x), copy.deepcopy(plain).double()(x.double()))


def test_a_number_that_becomes_a_parameter_gets_a_gradient() -> None:
    model = Net()
    assert [each.path for each in fastgen.fuse(model).swapped] == ["first, second"]
    del model.temperature
    model.temperature = nn.Parameter(torch.ones(()))
    model(torch.randn(64, 96)).sum().backward()
    assert model.temperature.grad.abs() > 0


def test_random_generators_stay_where_they_are() -> None:
    class Seeded(nn.Module):
        def forward(self, mu: Tensor, logvar: Tensor) -> Tensor:
            torch.manual_seed(0)
            return mu + (logvar / 2).exp() * torch.randn_like(mu)

    torch.manual_seed(5)
    state = torch.get_rng_state()
    fastgen.fuse(Seeded())
    assert torch.equal(state, torch.get_rng_state())


class Shallow(nn.Sequential):
    """Runs the first of its layers."""

    depth = 3

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(list(self._modules.values())[: self.depth])


def test_a_sequential_that_goes_through_its_layers_in_its_own_way() -> None:
    layers = [nn.ConvTranspose2d(16, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 16, 4, 2, 1), nn.ReLU()]
    inner = Shallow(*layers)
    model = nn.Sequential(inner, nn.ConvTranspose2d(16, 16, 4, 2, 1), nn.ReLU())
    plain = copy.deepcopy(model)
    report = fastgen.fuse(model)
    assert [each.path for each in report.swapped] == ["1, 2"]
    assert [(each.path, each.reason) for each in report.left] == [
        (path, "Shallow has a forward or an __iter__ of its own") for path in ("0.0", "0.2")
    ]
    x = torch.randn(2, 16, 4, 4)
    for depth in (3, 2, 4):
        inner.depth = plain[0].depth = depth
        assert_parity(model(x), plain(x), copy.deepcopy(plain).double()(x.double()))
