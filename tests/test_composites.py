"""Layers that are one op in the graph that torch's compiler reads, and what it looks at again at each call."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils import prune

import fastgen
from fastgen.nn import Conv2dChain, ConvTranspose2dBatchNorm, ConvTranspose2dChain, GaussianRSample, LinearChain
from ops import assert_compiles

MLP = torch.ops.fastgen.mlp.default


@pytest.fixture(autouse=True)
def anew() -> None:
    """Programs of an earlier test are none of this one's."""
    torch._dynamo.reset()


def read(function: Callable[..., Any]) -> tuple[Callable[..., Any], list[str]]:
    """``function``, compiled without code being made, and the names of fastgen's ops in the graphs that are read."""
    names: list[str] = []

    def look(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        targets = [node.target for node in graph.graph.nodes]
        names.extend(each._opname for each in targets if isinstance(each, torch._ops.OpOverload))
        return graph.forward

    return torch.compile(function, fullgraph=True, backend=look), names


def rows() -> Tensor:
    return torch.randn(6, 90)


def layers(between: nn.Module | None = None) -> list[nn.Module]:
    return [nn.Linear(90, 110), between or nn.ReLU(), nn.Linear(110, 70)]


CHAINS: dict[str, Callable[[], list[nn.Module]]] = {
    "a perceptron": layers,
    "two": lambda: [*layers(), nn.Tanh(), nn.Linear(70, 90), nn.LeakyReLU(0.3), nn.Linear(90, 90, bias=False)],
    "layers beside it": lambda: [nn.Linear(90, 90), *layers(nn.Identity()), nn.ReLU(inplace=True), nn.Identity()],
    "small ones": lambda: [nn.Linear(90, 3), nn.ReLU(), nn.Linear(3, 2), nn.Tanh()],
    "of other sizes": lambda: [nn.Linear(90, 110), nn.ReLU(), nn.ReLU(), nn.Linear(110, 70)],
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("fuses", [False, True])
def test_linear_layers_are_one_op(name: str, fuses: bool) -> None:
    plain = nn.Sequential(*CHAINS[name]())
    model: nn.Module = copy.deepcopy(plain) if fuses else LinearChain(*copy.deepcopy(plain))
    if fuses and not fastgen.fuse(model).swapped:
        return  # nothing runs otherwise
    program, names = read(model)
    for x in (rows(), rows()[0], rows()[:, None]):
        assert torch.equal(program(x), model(x))
        torch.testing.assert_close(program(x), plain(x))
    assert set(names) == {"dense"}


def test_its_gradients_are_those_of_the_ops() -> None:
    chain = LinearChain(*layers(), nn.Identity(), nn.Linear(70, 90), nn.LeakyReLU(0.3), nn.Linear(90, 90, bias=False))
    assert_compiles([MLP], chain, rows())
    model, x = LinearChain(*layers()), rows()
    program, _ = read(model)
    for mode in ("default", "halves"):
        with torch.autocast("cpu", torch.bfloat16, enabled=mode == "halves"):
            results = [torch.autograd.grad(run(x).square().sum(), list(model.parameters())) for run in (program, model)]
        for one, two in zip(*results, strict=True):
            assert torch.equal(one, two)


def _attribute() -> nn.Linear:
    """Its bias is a tensor, and no parameter."""
    layer = nn.Linear(90, 90)
    bias = layer.bias.detach()
    del layer.bias
    layer.bias = bias  # type: ignore[assignment]
    return layer


OTHERS: dict[str, Callable[[], list[nn.Module]]] = {
    "another activation": lambda: layers(nn.ELU()),
    "a slope below zero": lambda: layers(nn.LeakyReLU(-0.1)),
    "what may write over its input": lambda: [nn.ReLU(inplace=True), *layers()],
    "a dropout": lambda: layers(nn.Dropout(0.0)),
    "a norm": lambda: [nn.Linear(90, 90), nn.BatchNorm1d(90).eval(), *layers()],
    "an attribute": lambda: [_attribute(), *layers()],
    "pruned": lambda: [prune.random_unstructured(nn.Linear(90, 90), "weight", amount=0.5), *layers()],
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_one_op(name: str) -> None:
    model, x = LinearChain(*OTHERS[name]()), rows()
    plain = nn.Sequential(*model)
    program, names = read(model)
    inputs = [x.clone() for _ in range(2)]
    torch.testing.assert_close(program(inputs[0]), plain(inputs[1]))
    assert torch.equal(*inputs)
    assert "dense" not in names


def _replaced(model: nn.Sequential) -> None:
    model[1] = nn.Tanh()


def _sloped(model: nn.Sequential) -> None:
    model[1].negative_slope = 0.7


def _forward(model: nn.Sequential) -> None:
    model[2].forward = lambda x: x.mul(2)  # type: ignore[method-assign]


def _longer(model: nn.Sequential) -> None:
    model.append(nn.Tanh())


def _without_bias(model: nn.Sequential) -> None:
    model[0].bias = None


def _wider(model: nn.Sequential) -> None:
    model[2] = nn.Linear(110, 50)


def _all_hooked(model: nn.Sequential) -> None:
    model.handle = nn.modules.module.register_module_forward_hook(  # type: ignore[assignment]
        lambda module, _, y: y + 1 if isinstance(module, nn.Tanh) else None
    )
    model.append(nn.Tanh())


@pytest.mark.filterwarnings("ignore:Using `torch.compile")
@pytest.mark.parametrize("change", [_replaced, _sloped, _forward, _longer, _without_bias, _wider, _all_hooked])
def test_what_changes_afterwards_is_seen(change: Callable[[Any], None]) -> None:
    model, x = LinearChain(*layers(nn.LeakyReLU(0.2))), rows()
    program, _ = read(model)
    before = program(x)
    change(model)
    try:
        assert torch.equal(program(x), model(x))
        assert program(x).shape != before.shape or not torch.equal(program(x), before)
    finally:
        if hasattr(model, "handle"):
            model.handle.remove()


def test_a_call_of_the_class_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = LinearChain(*layers()), rows()
    program, names = read(model)
    before = model(x)
    monkeypatch.setattr(nn.ReLU, "__call__", lambda self, x: nn.Module.__call__(self, x) * 2, raising=False)
    assert torch.equal(program(x), model(x))
    assert not torch.equal(program(x), before)
    assert "dense" not in names


def test_a_forward_set_afterwards_is_seen_by_convolutions() -> None:
    """A compiler does not look again into what a module's ``__dict__`` holds."""
    x = torch.randn(2, 16, 8, 8)
    for chain, kind in ((ConvTranspose2dChain, nn.ConvTranspose2d), (Conv2dChain, nn.Conv2d)):
        for name in ("forward", "_conv_forward") if kind is nn.Conv2d else ("forward",):
            model = chain(kind(16, 16, 4, 2, 1), nn.ReLU(), kind(16, 32, 4, 2, 1))
            program, _ = read(model)
            program(x)
            setattr(model[2], name, lambda x, *_: x.mul(2))
            assert torch.equal(program(x), model(x)), (kind, name)


def test_a_sampling_layer_is_one_op() -> None:
    sampler = GaussianRSample()
    mu, logvar = torch.randn(2, 5, 4).unbind()
    program, names = read(sampler)
    results = []
    for run in (program, sampler):
        torch.manual_seed(3)
        results.append(run(mu, logvar))
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)
    assert names == ["gaussian_rsample"]
    own = torch.Generator().manual_seed(3)
    assert torch.equal(sampler(mu, logvar, own)[0], results[0][0])
    with pytest.raises(TypeError, match="mu: expected a tensor, got 3"):
        sampler(3, logvar)
    with pytest.raises(Exception, match="logvar: expected the shape of mu"):
        program(mu, logvar[:3])


def test_dual_numbers_after_a_program_without() -> None:
    """Torch would drop the tangents of such, without a word."""
    chain, sampler, x = LinearChain(*layers()), GaussianRSample(), rows()
    programs = [torch.compile(each, backend="aot_eager", fullgraph=True) for each in (chain, sampler)]
    with torch.no_grad():  # another mode would be another program
        programs[0](x), programs[1](x, x)
    with torch.no_grad(), forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        found, expected = (forward_ad.unpack_dual(run(dual)).tangent for run in (programs[0], nn.Sequential(*chain)))
        torch.testing.assert_close(found, expected)
        with pytest.raises(RuntimeError, match="forward-mode differentiation is not supported"):
            programs[1](dual, x)


def test_transforms_and_exports_have_what_it_consists_of() -> None:
    model, x = LinearChain(*layers()), rows()
    program, names = read(lambda x: torch.vmap(model)(x))
    torch.testing.assert_close(program(x), model(x))
    for strict in (False, True):
        exported = torch.export.export(model, (x,), strict=strict)
        names += [str(node.target) for node in exported.graph.nodes if "fastgen" in str(node.target)]
    assert not names


@pytest.mark.parametrize("halves", [False, True])
def test_layers_of_a_generator_that_evaluates_are_one_op_each(halves: bool) -> None:
    plain = nn.Sequential(
        nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.LeakyReLU(0.2), nn.ConvTranspose2d(16, 3, 4, 2, 1),
        nn.Tanh(),
    ).eval()  # fmt: skip
    model, x = ConvTranspose2dChain(*copy.deepcopy(plain)).eval(), torch.randn(4, 64, 7, 7)
    program, names = read(model)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=halves):
        assert torch.equal(program(x), model(x))
        if not halves:
            torch.testing.assert_close(program(x), plain(x), atol=1e-5, rtol=1e-5)
        norm = next(each for each in model.modules() if isinstance(each, nn.BatchNorm2d))
        norm.eps = 0.5
        norm.running_var.add_(1.0)  # type: ignore[union-attr]
        assert torch.equal(program(x), model(x))
        assert set(names) == {"transposed_layer"}
        model.train()  # by the batch
        names.clear()
        program(x)
    assert "transposed_layer" not in names
    model.eval()
    program(x.requires_grad_()).sum().backward()
    assert "transposed_layer" not in names


def test_its_layout_is_that_of_its_input() -> None:
    layer = ConvTranspose2dBatchNorm(16, 16, 4, 2, 1, activation="leaky_relu").eval()
    program, names = read(layer)
    for x in (torch.randn(2, 16, 8, 8), torch.randn(2, 16, 8, 8).contiguous(memory_format=torch.channels_last)):
        with torch.no_grad():
            assert torch.equal(program(x), layer(x))
            assert program(x).stride() == layer(x).stride()
    assert set(names) == {"transposed_layer"}


def test_a_program_looks_at_few_names() -> None:
    """Each of a small step's costs it a quarter of a microsecond, more where nothing is in the caches."""
    seen: list[Any] = []

    def keep(guards: Any) -> list[bool]:
        seen.extend(guards)
        return [True] * len(guards)

    class Model(nn.Module):
        def __init__(self, kind: type[nn.Sequential]) -> None:
            super().__init__()
            self.encoder, self.sampler, self.decoder = kind(*layers()), GaussianRSample(), kind(*layers())

        def forward(self, x: Tensor) -> Tensor:
            mu, logvar = self.encoder(x)[:, :60].chunk(2, dim=1)
            z, kl = self.sampler(mu, logvar)
            return self.decoder(torch.cat([z] * 3, dim=1)).sum() + kl.sum()

    fused = Model(nn.Sequential)
    assert fastgen.fuse(fused).swapped
    for model, few in ((Model(LinearChain), 36), (fused, 30)):  # there were 162
        seen.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.compile(model, backend="eager", options={"guard_filter_fn": keep})(rows()).backward()
        names = [guard.name for guard in seen if guard.is_global]
        assert 0 < len(names) <= few, names
        assert not [guard.name for guard in seen if "__closure__" in guard.name or "_compiled_call" in guard.name]
