"""Conv2dChain, and fuse: the convolutions of a discriminator or an encoder, in the form that a CPU is fastest in."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

import fastgen
from fastgen.fusing import worth
from fastgen.models import DCGAN, VAE, VQVAE, InfoGAN
from fastgen.nn import Conv2dChain
from fastgen.nn.halving import halves
from ops import Layouts, assert_compiles, assert_runs, ops_run
from parity import assert_parity
from rounding import Moved

SMALL, LARGE, WEIGHT = (getattr(torch.ops.fastgen, f"winograd_to_{name}") for name in ("small", "large", "weight"))
ALL = {"winograd_to_small", "winograd_to_large", "winograd_to_weight"}
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "instance": lambda width: nn.InstanceNorm2d(width, affine=True),  # takes no other layout
    "none": lambda _: nn.Identity(),
}


def critic(
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d, made: Callable[..., nn.Module] = lambda x: x
) -> list[Any]:
    """Of 32×32 images: to 16, 8, 4 and 1."""
    return [
        made(nn.Conv2d(3, 16, 4, 2, 1)), nn.LeakyReLU(0.2, True),
        made(nn.Conv2d(16, 32, 4, 2, 1, bias=False)), norm(32), nn.LeakyReLU(0.2, True),
        nn.Sequential(made(nn.Conv2d(32, 48, 4, 2, 1)), norm(48), nn.LeakyReLU(0.2)),
        made(nn.Conv2d(48, 1, 4, 1, 0)),
    ]  # fmt: skip


def results(model: nn.Module, x: Tensor) -> list[Tensor]:
    """What it computes, and all gradients."""
    leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = model(leaf)
    grads = torch.autograd.grad(y.sigmoid().sum(), [leaf, *model.parameters()], allow_unused=True)
    return [y.detach(), *(grad for grad in grads if grad is not None)]


class Written(nn.Module):
    """A forward of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 4, 2, 1), nn.Conv2d(16, 32, 4, 2, 1)
        self.bn = nn.BatchNorm2d(32)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.first(x), 0.2)
        return F.relu(self.bn(self.second(x))).view(x.shape[0], -1)


def by_chain(model: nn.Module) -> nn.Module:
    assert isinstance(model, nn.Sequential)
    return Conv2dChain(OrderedDict(copy.deepcopy(model)._modules))


def by_fuse(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    assert fastgen.fuse(model).swapped
    return model


def assert_same(model: nn.Module, plain: nn.Module, x: Tensor) -> None:
    exact = copy.deepcopy(plain).double()
    ours, eager, truth = results(model, x), results(plain, x), results(exact, x.double())
    moved = Moved(lambda: results(exact, x.double()), torch.float32)
    for i, (one, other, right) in enumerate(zip(ours, eager, truth, strict=True)):
        assert_parity(one, other, right, moved[i])
    assert ours[0].stride() == eager[0].stride()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("made", [by_chain, by_fuse])
def test_it_computes_what_the_layers_do(made: Callable[[nn.Module], nn.Module], norm: str, training: bool) -> None:
    """In any layout of the image, which is the result's; it has the layers' state_dict, which it loads."""
    plain = nn.Sequential(*critic(NORMS[norm])).train(training)
    model = made(plain)
    assert model.state_dict().keys() == by_chain(plain).state_dict().keys()
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(8, 3, 32, 32).contiguous(memory_format=layout)
        with assert_runs(SMALL.default, LARGE.default, WEIGHT.default, backward=False):
            assert_same(model, plain, x)
    torch.testing.assert_close(dict(model.named_buffers()), dict(plain.named_buffers()))


def test_a_forward_of_ones_own() -> None:
    """Whose view counts on images being contiguous."""
    plain, x = Written(), torch.randn(8, 3, 16, 16)
    with assert_runs(SMALL.default, WEIGHT.default, backward=False):
        assert_same(by_fuse(plain), plain, x)


def test_a_weight_that_is_made_by_a_parametrization() -> None:
    """As spectral norm does: it is made once in a forward, and its power iteration runs once."""
    torch.manual_seed(0)
    plain = nn.Sequential(*critic(NORMS["none"], spectral_norm)).eval()
    model, x = by_chain(plain), torch.randn(8, 3, 32, 32)
    with assert_runs(SMALL.default, WEIGHT.default, backward=False):
        found, expected = results(model, x), results(plain, x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    for each in (model, plain):
        each.train()(x)
    torch.testing.assert_close(dict(model.named_buffers()), dict(plain.named_buffers()))


class Counted(nn.Module):
    """A parametrization that counts how often it is asked."""

    asked = 0

    def forward(self, bias: Tensor) -> Tensor:
        self.asked += 1
        return 2 * bias


def test_a_bias_that_is_made_by_a_parametrization_is_made_once() -> None:
    model = by_chain(nn.Sequential(*critic(NORMS["none"])))
    for layer, count in ((model[0], Counted()), (model[2], Counted())):  # type: ignore[index]
        nn.utils.parametrize.register_parametrization(layer, "bias" if layer.bias is not None else "weight", count)
        count.asked = 0
        with assert_runs(SMALL.default, backward=False):
            model(torch.randn(8, 3, 32, 32))
        assert count.asked == 1


def test_layouts_of_torchs_convolutions() -> None:
    """Those behind one that halves are channels_last, but for grouped ones, whose gradients lose digits there; those
    behind an image's that no such follows are not.
    """
    ends = [nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1)]
    x = torch.randn(8, 3, 32, 32)
    for last, expected in (
        (nn.Conv2d(32, 16, 3, 1, 1), [True]),
        (nn.Conv2d(32, 16, 3, 1, 1, groups=2), [False]),
    ):
        with Layouts() as layouts:
            Conv2dChain(*ends, last)(x)
        assert layouts.seen == expected
    for first, expected in ((nn.Conv2d(3, 16, 4, 2, 1), [False]), (nn.Conv2d(3, 16, 3, 2, 1), [False, False])):
        with Layouts() as layouts:
            Conv2dChain(first, nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1))(x)
        assert layouts.seen == expected


def test_gradient_penalty() -> None:
    plain = nn.Sequential(*critic(NORMS["none"]))
    model, x = by_chain(plain), torch.randn(8, 3, 32, 32)

    def penalty(model: nn.Module) -> list[Tensor]:
        leaf = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(model(leaf).sum(), leaf, create_graph=True)
        found = torch.autograd.grad(grad.flatten(1).norm(dim=1).sub(1).square().sum(), [*model.parameters()],
                                    allow_unused=True)  # fmt: skip
        return [each for each in found if each is not None]

    with assert_runs(SMALL.default, LARGE.default, WEIGHT.default, backward=False):
        found = penalty(model)
    torch.testing.assert_close(found, penalty(plain), atol=1e-5, rtol=1e-3)


def test_the_report_says_so() -> None:
    report = fastgen.fuse(nn.Sequential(*critic()))
    form = "conv2d in Winograd's form, where that pays"
    norm = "batch_norm + leaky_relu in one op, where that pays"
    rows = [(row.path, row.now) for row in report.swapped]
    assert rows == [("2", form), ("3, 4", norm), ("5.0", form), ("5.1, 5.2", norm)]
    assert not report.left
    report.undo()
    watched = nn.Sequential(*critic())
    watched[2].register_forward_hook(lambda *_: None)
    watched[3].register_forward_hook(lambda *_: None)
    report = fastgen.fuse(watched)
    assert [row.path for row in report.swapped] == ["5.0", "5.1, 5.2"]
    assert {each.path for each in report.left if each.reason == worth.NORMALIZED} == {"3"}


class Own(nn.Conv2d):
    """Somebody's convolution."""


@pytest.mark.parametrize(
    "conv",
    [nn.Conv2d(16, 32, 4, 2, 0), nn.Conv2d(16, 32, 3, 2, 1), nn.Conv2d(16, 32, 4, 1, 1), nn.Conv2d(16, 24, 4, 2, 1),
     nn.Conv2d(16, 32, 4, 2, 1, groups=2), nn.Conv2d(16, 32, 4, 2, 1, padding_mode="circular"),
     nn.Conv2d(16, 32, 4, padding="same"), nn.Conv2d(16, 32, 4, 2, 1, dilation=2), Own(16, 32, 4, 2, 1),
     nn.Conv2d(32, 16, 4, 2, 1), nn.Conv2d(16, 32, 4, 2, 1, device="meta")],
    ids=str,
)  # fmt: skip
def test_what_stays_as_it_is(conv: nn.Module) -> None:
    assert not halves(conv)
    if next(conv.parameters()).device.type == "cpu":
        x = torch.randn(4, conv.weight.shape[1] * conv.groups, 16, 16)  # type: ignore[union-attr,operator]
        with ops_run() as ran:
            assert torch.equal(Conv2dChain(conv)(x), conv(x))
        assert not ran


def test_layers_that_were_changed() -> None:
    """Sizes that are numbers, a weight that is a buffer, or was pruned: what runs is what they compute now."""
    x = torch.randn(8, 16, 16, 16)
    numbers = nn.Conv2d(16, 32, 4, 2, 1)
    numbers.stride, numbers.padding, numbers.dilation = 2, 1, 1  # type: ignore[assignment]
    held = nn.Conv2d(16, 32, 4, 2, 1, bias=False)
    weight = held.weight.data
    del held.weight
    held.register_buffer("weight", weight)
    pruned, smaller = nn.Conv2d(16, 32, 4, 2, 1, bias=False), nn.Conv2d(16, 32, 4, 2, 1, bias=False)
    pruned.weight = nn.Parameter(pruned.weight[:24].detach())
    smaller.weight = nn.Parameter(smaller.weight[:, :, 1:, 1:].detach())
    for conv, runs in ((numbers, True), (held, True), (pruned, False), (smaller, False)):
        plain = nn.Sequential(conv, nn.ReLU())
        model = by_chain(plain)
        report = fastgen.fuse(copy.deepcopy(plain))
        assert bool(report.swapped) == runs
        with ops_run() as ran, torch.no_grad():
            torch.testing.assert_close(model(x), plain(x), atol=1e-5, rtol=1e-5)
        assert ("winograd_to_small" in ran) == runs
    packed = nn.Sequential(nn.Conv2d(16, 32, 4, 2, 1)).eval()
    with torch.no_grad():
        torch.testing.assert_close(by_chain(packed)(x.to_mkldnn()).to_dense(), packed(x), atol=1e-5, rtol=1e-5)
    traced = torch.fx.symbolic_trace(by_chain(nn.Sequential(*critic())))
    assert {node.op for node in traced.graph.nodes} == {"placeholder", "call_module", "output"}


def test_where_it_does_not_run() -> None:
    """Of odd sides, few pixels, in another dtype, under autocast, in transforms, where somebody looks on."""
    plain = nn.Sequential(nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU()).eval()
    model, x = by_chain(plain), torch.randn(4, 16, 16, 16)
    with ops_run() as ran:
        for other in (x[:, :, 1:], x[:1, :, :4, :4], x[0]):
            assert torch.equal(model(other), plain(other))
        assert torch.equal(copy.deepcopy(model).double()(x.double()), copy.deepcopy(plain).double()(x.double()))
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(model(x), plain(x))
        torch.testing.assert_close(torch.func.jvp(model, (x,), (x,)), torch.func.jvp(plain, (x,), (x,)))
        torch.testing.assert_close(torch.vmap(model)(x[:, None]), torch.vmap(plain)(x[:, None]))
        with pytest.raises(RuntimeError, match="16 channels"):
            model(x[:, :3])
        model[0].register_forward_hook(lambda *_: None)  # type: ignore[operator]
        assert torch.equal(model(x), plain(x))
    assert not ran


def test_it_runs_in_compiled_programs() -> None:
    plain = nn.Sequential(*critic()).eval()
    model, x = by_chain(plain), torch.randn(8, 3, 32, 32)
    assert_compiles((SMALL.default, LARGE.default), model, x)
    program = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    for count in (8, 5):
        torch.testing.assert_close(program(x[:count]), plain(x[:count]), atol=1e-5, rtol=1e-5)


def test_models_are_made_of_it() -> None:
    """Of 16 channels and more."""
    images, levels = torch.rand(8, 3, 32, 32) * 2 - 1, torch.randint(256, (8, 3, 32, 32))
    with assert_runs(SMALL.default, backward=False):
        DCGAN(image_size=32, channels=16).discriminator(images)
    with assert_runs(SMALL.default, backward=False):
        InfoGAN(3, image_size=32).discriminator(images)
    for model in (VAE(3, image_size=32, levels=256, channels=(16, 32)), VQVAE(3, image_size=32, channels=32)):
        with assert_runs(SMALL.default, backward=False):
            model.losses(levels)


def test_errors() -> None:
    with pytest.raises(TypeError, match="layers: expected modules, or an OrderedDict of them"):
        Conv2dChain(nn.ReLU(), 3)
    with pytest.raises(TypeError, match="x: expected a tensor"):
        Conv2dChain(nn.ReLU())(3)
