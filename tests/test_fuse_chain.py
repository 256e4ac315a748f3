"""fuse: chains of transposed convolutions, in Sequentials and in forwards, whatever is done to them afterwards."""

import copy
import random
import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastgen
from fastgen.nn import GatedActivation, sequence
from fusable import ByProduct, DirectGenerator, Generator, assert_same_results, twins


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, str, bool]]:
    """What ran in one op: (batch norm, activation, whether its normalisation was left to the next)."""
    calls: list[tuple[bool, str, bool]] = []

    def spy(conv, bn, activation, x, **options):  # type: ignore[no-untyped-def]
        calls.append((bn is not None, activation.name, options["deferred"]))
        return run(conv, bn, activation, x, **options)

    run = sequence.run_conv_transpose2d_bn
    monkeypatch.setattr(sequence, "run_conv_transpose2d_bn", spy)
    return calls


def deconv(*args: int, **options: object) -> nn.Module:
    return nn.ConvTranspose2d(*args, **{"bias": False, **options})  # type: ignore[arg-type]


def test_one_op_for_a_chain(ran: list[tuple[bool, str, bool]]) -> None:
    model = Generator()
    fastgen.fuse(model)
    model(torch.randn(2, 10, 1, 1))
    assert ran == [(True, "relu", True)] * 3 + [(False, "tanh", False)]


def block(i: int, o: int, activation: nn.Module) -> nn.Module:
    return nn.Sequential(deconv(i, o, 4, 2, 1), nn.BatchNorm2d(o), activation)


SEQUENTIALS = {
    "blocks": lambda: nn.Sequential(
        block(3, 16, nn.ReLU()), block(16, 12, nn.LeakyReLU(0.2)), deconv(12, 8, 3), nn.Tanh()
    ),
    "blocks in blocks": lambda: nn.Sequential(nn.Sequential(block(3, 16, nn.ReLU())), block(16, 12, nn.Tanh())),
    "no activation": lambda: nn.Sequential(
        deconv(3, 12, 4), nn.BatchNorm2d(12), deconv(12, 16, 2, 2), nn.BatchNorm2d(16), nn.ELU(inplace=True)
    ),
    "other layers between": lambda: nn.Sequential(
        block(3, 16, nn.ReLU()), nn.Conv2d(16, 12, 3), block(12, 16, nn.GELU())
    ),
    "no affine, no statistics": lambda: nn.Sequential(
        deconv(3, 12, 4), nn.BatchNorm2d(12, affine=False, track_running_stats=False), nn.ReLU(True), deconv(12, 8, 2)
    ),
    "groups, dilation, output_padding, momentum": lambda: nn.Sequential(
        deconv(3, 12, 3, 2, 1, output_padding=1, groups=3, dilation=2), nn.BatchNorm2d(12, momentum=None), nn.ReLU()
    ),
    "sigmoid last": lambda: nn.Sequential(block(3, 16, nn.ReLU()), deconv(16, 12, 4, 2, 1, bias=True), nn.Sigmoid()),
    "masked": lambda: nn.Sequential(
        ByProduct("A", 3, 16, 3, padding=1), nn.ReLU(), ByProduct("B", 16, 12, 1), nn.ELU(), ByProduct("B", 12, 24, 1),
        GatedActivation(), ByProduct("B", 12, 16, 1), nn.ELU(0.5),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SEQUENTIALS)
def test_sequentials(name: str) -> None:
    torch.manual_seed(5)
    fused, plain, exact, report = twins(SEQUENTIALS[name]())
    assert len(report.swapped) >= 1
    for training in (True, False):
        for model in (fused, plain, exact):
            model.train(training)
        assert_same_results(fused, plain, exact, lambda: torch.randn(3, 3, 4, 5))


def test_a_chain_across_blocks_is_told_once(ran: list[tuple[bool, str, bool]]) -> None:
    model = SEQUENTIALS["blocks"]()
    report = fastgen.fuse(model)
    assert [entry.path for entry in report.swapped] == ["0.0, 0.1, 0.2", "1.0, 1.1, 1.2", "2, 3"]
    model(torch.randn(2, 3, 2, 2))
    assert [deferred for _, _, deferred in ran] == [True, True, False]


class Custom(nn.ConvTranspose2d):
    pass


def hooked(position: int, register: str) -> nn.Module:
    model = block(3, 4, nn.ReLU())
    getattr(model[position], register)(lambda *_: None)
    return model


class Direct(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.bn, self.second = deconv(3, 4, 4, 2, 1), nn.BatchNorm2d(4), deconv(4, 3, 4, 2, 1)
        self.list = nn.ModuleList([nn.ReLU()])
        self.register_buffer("mean", torch.zeros(1))
        self.steps = [1]


def direct(forward: Callable[..., Tensor]) -> nn.Module:
    """A module of a class of its own with this forward."""
    return type("Direct", (Direct,), {"forward": forward})()


def helper(x: Tensor) -> Tensor:
    return x


LEFT = {
    "alone": (lambda: nn.Sequential(deconv(3, 4, 4)), "no batch norm or activation that the op knows follows it"),
    "other activation": (lambda: nn.Sequential(deconv(3, 4, 4), nn.GELU()), "no batch norm or activation.*, but GELU"),
    "another norm": (lambda: nn.Sequential(deconv(3, 4, 4), nn.InstanceNorm2d(4)), "follows it, but InstanceNorm2d"),
    "sigmoid alone": (lambda: nn.Sequential(deconv(3, 4, 4), nn.Sigmoid()), "follows it, but Sigmoid"),
    "upsampling": (lambda: nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(3, 4, 3)), "upsamples before a conv"),
    "a discriminator's layer": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 4, 2, 1), nn.BatchNorm2d(4), nn.LeakyReLU(0.2)),
        "it follows a Conv2d: a BatchNorm2d of 16 channels or more in an nn.Sequential runs with",
    ),
    "subclass": (lambda: nn.Sequential(Custom(3, 4, 4), nn.BatchNorm2d(4)), "a subclass of ConvTranspose2d, Custom"),
    "hook on the layer": (lambda: hooked(0, "register_forward_hook"), "it has a forward hook"),
    "hook on the norm": (lambda: hooked(1, "register_forward_hook"), "it has a forward hook, and would not be called"),
    "backward hook": (lambda: hooked(1, "register_full_backward_hook"), "it has a backward hook, and would not"),
    "random": (lambda: direct(lambda s, x: s.bn(s.up(x)) if random.random() < 2 else x), "uses random"),
    "helper": (lambda: direct(lambda s, x: helper(F.relu(s.bn(s.up(x))))), "uses helper"),
    "its own attribute": (lambda: direct(lambda s, x: F.relu(s.bn(s.up(x))) if s.steps else x), "self.steps, a list"),
    "modules in a list": (lambda: direct(lambda s, x: s.list[0](s.bn(s.up(x)))), "looks into self.list"),
    "mode": (
        lambda: direct(lambda s, x: F.relu(s.bn(F.dropout(s.up(x), training=s.training)))),
        "something else in training",
    ),
    "default argument": (lambda: direct(lambda s, x, y=None: F.relu(s.bn(s.up(x)))), "one with a default"),
    "decided by values": (lambda: direct(lambda s, x: F.relu(s.bn(s.up(x))) if x.sum() > 0 else x), "cannot trace"),
    "random tensors": (
        lambda: direct(lambda s, x: F.relu(s.bn(s.up(x))) + torch.rand(1)),
        "do not come from its input",
    ),
    "comprehension": (lambda: direct(lambda s, x: next(s.bn(s.up(y)) for y in [x])), "a function or a comprehension"),
    "asks torch": (lambda: direct(lambda s, x: s.bn(s.up(x)) if torch.is_grad_enabled() else x), "asks torch"),
    "two users": (lambda: direct(lambda s, x: (y := s.up(x)) + s.bn(y)), "no batch norm or activation"),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_is_left(case: str) -> None:
    make, reason = LEFT[case]
    model = make()
    classes = [type(module) for module in model.modules()]
    report = fastgen.fuse(model)
    assert report.swapped == []
    assert re.search(reason, report.left[0].reason), report.left[0].reason
    assert [type(module) for module in model.modules()] == classes


def test_a_forward_that_uses_some_of_its_layers_elsewhere(ran: list[tuple[bool, str, bool]]) -> None:
    """Skip connections, numbers and buffers in a forward; the second layer's result has two users."""

    def forward(self: Direct, x: Tensor) -> Tensor:
        y = torch.tanh(self.bn(self.up(x)))
        z = F.leaky_relu(self.second(y), 0.1)
        return z + F.interpolate(x, scale_factor=4) * self.mean

    fused, plain, exact, report = twins(direct(forward))
    assert [(entry.path, entry.now) for entry in report.swapped] == [
        ("up, bn", "conv_transpose2d_bn + tanh, normalised in the load of second"),
        ("second", "conv_transpose2d + leaky_relu"),
    ]
    assert_same_results(fused, plain, exact, lambda: torch.randn(3, 3, 4, 4))
    # with gradients the last one is torch's: its result may be written over, which no op that keeps it bears
    assert ran[:2] == [(True, "tanh", True), (False, "none", False)]
    with torch.no_grad():
        fused(torch.randn(3, 3, 4, 4))
    assert ran[-1] == (False, "leaky_relu", False)


def test_a_sigmoid_in_a_forward_with_two_arguments(ran: list[tuple[bool, str, bool]]) -> None:
    """Tensors go the fused way; what may be decided by, like None and a number, goes the forward's own."""

    def forward(self: Direct, x: Tensor, y: Tensor) -> Tensor:
        x = self.second(F.relu(self.bn(self.up(x))))
        return torch.sigmoid(x) if y is None else torch.sigmoid(x) * y

    model = direct(forward)
    twin = copy.deepcopy(model)
    assert [entry.path for entry in fastgen.fuse(model).swapped] == ["up, bn", "second"]
    x = torch.randn(2, 3, 4, 4)
    for y in (torch.full((), 2.0), None, 2.0):
        torch.testing.assert_close(model(x, y), twin(x, y))
    torch.testing.assert_close(model(x, y=None), twin(x, None))
    assert ran == [(True, "relu", True), (False, "none", False)]  # once, with two tensors


def test_a_number_that_a_forward_reads_is_compared_at_each_call(ran: list[tuple[bool, str, bool]]) -> None:
    fused, plain, _, _ = twins(DirectGenerator())
    z = torch.randn(2, 10)
    for model in (fused, plain):
        model.size = 2  # 8 channels of 4×4 are 32 of 2×2, which do not fit
        with pytest.raises(RuntimeError, match="to have 8 channels, but got 32"):
            model(z)
    assert ran == []


def outputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    y = model(x)
    grads = torch.autograd.grad(y.square().sum(), list(model.parameters()), allow_unused=True)
    return [y, *(grad for grad in grads if grad is not None)]


def watch(model: nn.Module, seen: list[Tensor]) -> None:
    model.main[4].register_forward_hook(lambda module, args, result: seen.append(result.detach()))


CHANGES = {
    "hook on a norm": lambda model, seen: watch(model, seen),
    "norm replaced": lambda model, seen: setattr(model.main, "4", nn.Identity()),
    "layers cut off": lambda model, seen: setattr(model, "main", model.main[:5]),
    "layer added": lambda model, seen: model.main.append(nn.Sigmoid()),
    "frozen norm": lambda model, seen: model.main[4].eval(),
    "activation replaced": lambda model, seen: setattr(model.main, "2", nn.GELU()),
    "synchronised": lambda model, seen: nn.SyncBatchNorm.convert_sync_batchnorm(model),
    "spectral norm": lambda model, seen: nn.utils.parametrizations.spectral_norm(model.main[3]),
    "forward replaced": lambda model, seen: setattr(model.main[4], "forward", lambda x: 2 * x),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_done_to_a_model_afterwards(change: str, ran: list[tuple[bool, str, bool]]) -> None:
    fused, plain, _, _ = twins(Generator())
    if change == "synchronised":  # torch's own needs a GPU to run
        plain_change = lambda model, seen: None  # noqa: E731
    else:
        plain_change = CHANGES[change]
    seen: list[list[Tensor]] = [[], []]
    for model, apply, list_ in ((fused, CHANGES[change], seen[0]), (plain, plain_change, seen[1])):
        torch.manual_seed(0)
        apply(model, list_)
    x = torch.randn(2, 10, 1, 1)
    torch.manual_seed(0)
    ours = outputs(fused, x)
    torch.manual_seed(0)
    for one, two in zip(ours, outputs(plain, x), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)
    assert len(seen[0]) == len(seen[1]) == (change == "hook on a norm")
    assert ran


def test_hooks_for_all_modules_see_each_module() -> None:
    model = Generator()
    fastgen.fuse(model)
    names: list[str] = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: names.append(type(module).__name__))
    try:
        model(torch.randn(2, 10, 1, 1))
    finally:
        handle.remove()
    assert names.count("BatchNorm2d") == names.count("ReLU") == 3


def test_hooks_on_the_model_and_on_swapped_modules() -> None:
    fused, plain, _, _ = twins(nn.Sequential(ByProduct("A", 1, 4, 3, padding=1), nn.ReLU(), block(4, 3, nn.Tanh())))
    seen: list[list[torch.Size]] = [[], []]
    for model, shapes in ((fused, seen[0]), (plain, seen[1])):
        model.register_forward_hook(lambda m, a, y, s=shapes: s.append(y.shape))
        model.register_full_backward_hook(lambda m, gi, go, s=shapes: s.append(go[0].shape))
        model[0].register_forward_pre_hook(lambda m, a, s=shapes: s.append(a[0].shape))
        model[0].register_full_backward_hook(lambda m, gi, go, s=shapes: s.append(go[0].shape))
        model(torch.ones(2, 1, 3, 3)).sum().backward()
    assert seen[0] == seen[1]
    assert len(seen[0]) == 4
    assert copy.deepcopy(fused)[0] is not fused[0]
