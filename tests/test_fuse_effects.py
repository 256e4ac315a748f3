"""fuse: what a forward does beside its result goes on being done, and what it reads beside its input is respected."""

import copy
import gc
import io
import random
import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastgen
from fastgen.nn import GatedActivation
from fusable import ByData, ByProduct, Masked, deconv_block, parametrized
from parity import assert_parity

# ---- a mask that the forward writes into the weight


class NoGrad(Masked):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.weight.mul_(self.mask)
        return super().forward(x)


class NewData(Masked):
    def forward(self, x: Tensor) -> Tensor:
        self.weight.data = self.weight.data * self.mask
        return super().forward(x)


class InCall(Masked):
    def __call__(self, x: Tensor) -> Tensor:
        self.weight.data *= self.mask
        return super().__call__(x)


class Codec(nn.Module):
    """A context model as learned codecs have it: one pass over all pixels, or one pixel after the other."""

    def __init__(self, masked: Callable[..., nn.Module], activation: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.context = masked("A", 2, 6, 5, padding=2)
        self.layers = nn.Sequential(masked("B", 6, 8, 3, padding=1), activation())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(F.elu(self.context(x)))

    def serial(self, x: Tensor) -> Tensor:
        """The weights are read as they are: whoever trusts the forward finds zeros in the dead taps."""
        hidden = F.elu(self.each(self.context, x))
        return self.layers[1](self.each(self.layers[0], hidden))

    def each(self, conv: nn.Module, x: Tensor) -> Tensor:
        (K, _), (_, _, H, W) = conv.weight.shape[2:], x.shape
        padded = F.pad(x, [K // 2] * 4)
        pixels = [
            F.conv2d(padded[:, :, i : i + K, j : j + K], conv.weight, conv.bias) for i in range(H) for j in range(W)
        ]
        return torch.cat(pixels, 3).view(len(x), -1, H, W)


def dead(model: nn.Module) -> Tensor:
    return torch.cat([(m.weight * (1 - m.mask)).flatten() for m in model.modules() if isinstance(m, Masked)])


def train(model: nn.Module, batches: list[Tensor]) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for x in batches:
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("activation", [nn.ReLU, GatedActivation])
@pytest.mark.parametrize("masked", [ByData, NoGrad, NewData, InCall])
def test_dead_taps_read_as_its_own_forward_leaves_them(masked: type[nn.Module], activation: type[nn.Module]) -> None:
    """Before training, after it, in the state, in a loaded checkpoint, in a copy, and once it is undone."""
    fused, plain = Codec(masked, activation), Codec(masked, activation)
    plain.load_state_dict(fused.state_dict())
    report = fastgen.fuse(fused)
    assert len(report.swapped) == 2, str(report)
    x = torch.randn(2, 2, 4, 5)
    assert dead(fused).abs().max() > 0
    fused(x)
    assert dead(fused).eq(0).all()
    batches = [torch.randn(2, 2, 6, 5) for _ in range(20)]
    for model in (fused, plain):
        train(model, batches)
        model(x)
        assert dead(model).eq(0).all()
    assert_parity(fused(x), fused.serial(x), copy.deepcopy(fused).double().serial(x.double()))
    alive = {name: torch.randn_like(tensor) for name, tensor in fused.state_dict().items() if "mask" not in name}
    fused.load_state_dict(alive, strict=False)
    assert dead(fused).abs().max() > 0
    parallel = fused(x)
    assert dead(fused).eq(0).all()
    file = io.BytesIO()
    torch.save(fused.state_dict(), file)
    file.seek(0)
    plain.load_state_dict(torch.load(file))
    report.undo()
    for model in (fused, plain, copy.deepcopy(fused)):
        assert_parity(model.serial(x), parallel, copy.deepcopy(fused).double()(x.double()))


def test_graphs_stay_valid_and_modes_work() -> None:
    """A weight that is masked again before backward is the weight that was; inference and compile write it, too."""
    layer = ByData("B", 4, 6, 3, padding=1)
    plain = copy.deepcopy(layer)
    fastgen.fuse(layer)
    x = torch.randn(2, 4, 5, 5)
    grads = [torch.autograd.grad((model(x) * model(-x)).sum(), model.bias)[0] for model in (layer, plain)]
    torch.testing.assert_close(*grads)
    for run in (layer, torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager")):
        torch.nn.init.normal_(run.weight)
        run(x)
        assert (run.weight * (1 - run.mask)).eq(0).all()
    torch.nn.init.normal_(layer.weight)
    with torch.inference_mode():
        layer(x)
    assert dead(layer).eq(0).all()


# ---- what else a forward may do or read

SCALE = 1.0
CALLS = 0
LOG: list[object] = []
SETTINGS = {"scale": 1.0}


class Settings:
    scale = 1.0


class Style(Masked):
    """A masked convolution with something beside it."""

    def __init__(self, beside: Callable[[nn.Module, Tensor], object]) -> None:
        super().__init__("B", 4, 6, 3, padding=1)
        self.beside, self.log, self.nested = beside, [], [[]]

    def forward(self, x: Tensor) -> Tensor:
        self.beside(self, x)
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=1)


def count(module: nn.Module, x: Tensor) -> None:
    global CALLS
    CALLS += 1


def around() -> Callable[..., object]:
    scale = 1.0
    return lambda s, x: scale


EFFECTS = {
    "a list of its own": (lambda s, x: s.log.append(1), "writes self.log"),
    "a list in a list": (lambda s, x: s.nested[0].append(1), "writes self.nested"),
    "a global list": (lambda s, x: LOG.append(1), "reads the global LOG, a list, which may change"),
    "a global dict": (lambda s, x: SETTINGS["scale"], "reads the global SETTINGS, a dict, which may change"),
    "a global that is written": (count, "the global CALLS"),
    "a variable around it": (around(), "reads scale, a variable of a function around it"),
    "something said": (lambda s, x: input, "uses input, which may do more than compute"),
    "Python's random numbers": (lambda s, x: random.random(), "reads the global random.random, a builtin_function"),
    "torch's state": (lambda s, x: torch.is_grad_enabled(), "asks torch for its state"),
    "a counter": (lambda s, x: s.mask.add_(0), "also calls aten.add"),
}


@pytest.mark.parametrize("effect", EFFECTS)
def test_effects_are_not_dropped(effect: str) -> None:
    beside, reason = EFFECTS[effect]
    layer = Style(beside)
    report = fastgen.fuse(layer)
    assert report.swapped == []
    assert re.search(reason, report.left[0].reason), report.left[0].reason


def test_who_is_told_of_a_garbage_collection_is_not_its_forward() -> None:
    """As hypothesis is, with a clock; a collection may come at any allocation."""
    told, thresholds = [], gc.get_threshold()

    def callback(phase: str, _: dict[str, int]) -> None:
        told.append((phase, LOG, random.random))

    gc.callbacks.append(callback)
    try:
        gc.set_threshold(1)
        report = fastgen.fuse(NewData("B", 4, 6, 3, padding=1))
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(callback)
    assert len(report.swapped) == 1, report.left
    assert told
    assert gc.isenabled()


class Scaled(nn.Module):
    """z with a scale from somewhere."""

    factor = 1.0

    def __init__(self, scale: Callable[[nn.Module], float]) -> None:
        super().__init__()
        self.scale = scale

    def deviation(self, logvar: Tensor) -> Tensor:
        return (logvar / 2).exp()

    def forward(self, mu: Tensor, logvar: Tensor) -> Tensor:
        return mu + self.deviation(logvar) * torch.randn_like(mu) * self.scale(self)


def set_global(module: nn.Module, patch: pytest.MonkeyPatch) -> None:
    patch.setitem(globals(), "SCALE", 0.0)


READS: dict[str, tuple[Callable[[nn.Module], float], Callable[[nn.Module, pytest.MonkeyPatch], None]]] = {
    "a global number": (lambda s: SCALE, set_global),
    "a number of a global class": (lambda s: Settings.scale, lambda s, p: p.setattr(Settings, "scale", 0.0)),
    "a number of its class": (lambda s: s.factor, lambda s, p: setattr(s, "factor", 0.0)),
    "a method": (lambda s: 1.0, lambda s, p: setattr(s, "deviation", lambda logvar: 0 * logvar)),
}


@pytest.mark.parametrize("read", READS)
def test_what_a_forward_reads_is_compared_at_each_call(read: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scale, change = READS[read]
    module = Scaled(scale)
    assert len(fastgen.fuse(module).swapped) == 1
    mu = torch.randn(2, 3)
    assert not torch.equal(module(mu, mu), mu)
    change(module, monkeypatch)
    assert torch.equal(module(mu, mu), mu)


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.register_buffer("mask", Masked("B", 4, 4, 3).mask)

    def forward(self, x: Tensor) -> Tensor:
        self.conv.weight.data.mul_(self.mask)
        return self.conv(x)


class Doubled(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_an_inner_layer_of_another_class() -> None:
    module = Around()
    fastgen.fuse(module)
    x = torch.randn(1, 4, 3, 3)
    before = module(x)
    doubled = Doubled(4, 4, 3, padding=1)
    doubled.load_state_dict(module.conv.state_dict())
    module.conv = doubled
    torch.testing.assert_close(module(x), 2 * before)


class Counting(nn.Sequential):
    calls = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().__call__(x)


def test_a_call_of_its_own_is_called() -> None:
    """Chains do not go across a Sequential that does more when it is called than calling what it holds."""
    block = Counting(*deconv_block(3, 4))
    model = nn.Sequential(*deconv_block(3, 3), block)
    fastgen.fuse(model)
    model(torch.randn(2, 3, 4, 4))
    assert block.calls == 1


def test_a_mask_beside_the_weight_is_not_written() -> None:
    for layer in (ByProduct("B", 4, 6, 3, padding=1), parametrized("B", 4, 6, 3, padding=1)):
        weights = [p.detach().clone() for p in layer.parameters()]
        fastgen.fuse(layer)
        layer(torch.randn(1, 4, 3, 3))
        assert all(map(torch.equal, layer.parameters(), weights))
