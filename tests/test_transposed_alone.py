"""fuse: transposed convolutions that run as products of pixels, alone, and how their results are laid out."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

import fastgen
from fastgen.nn import ConvTranspose2dChain
from fastgen.ops import _dtypes, conv_transpose2d
from ops import assert_runs, ops_run
from parity import assert_parity
from rounding import Moved

PRODUCTS, IMAGE = torch.ops.fastgen.conv_transpose2d_products, torch.ops.fastgen.conv_transpose2d_image
ALONE = {"conv_transpose2d_products", "conv_transpose2d_image"}
DOUBLED = {"winograd_to_large"}
CHAIN = {"conv_transpose2d_bn"}


def decoder(*last: nn.Module) -> nn.Sequential:
    """7×7 to 28×28, as the decoder of a convolutional autoencoder has it."""
    return nn.Sequential(
        nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.ConvTranspose2d(32, 3, 4, 2, 1), *last
    )  # fmt: skip


class Viewed(nn.Module):
    """A layer of a user's, which counts on images being contiguous."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), -1)


def fused(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    assert fastgen.fuse(model).swapped
    return model


def test_the_report_says_so() -> None:
    """Of one behind a layer that an op knows; not of one on its own, nor of one that somebody watches."""
    now = [row.now for row in fastgen.fuse(decoder()).swapped]
    assert now == ["conv_transpose2d_bn + relu", "conv_transpose2d, as products of pixels where that pays"]
    assert fastgen.fuse(nn.Sequential(nn.ConvTranspose2d(64, 32, 4, 2, 1))).swapped == []
    watched = decoder()
    watched[3].register_forward_hook(lambda *_: None)
    assert [row.now for row in fastgen.fuse(watched).swapped] == ["conv_transpose2d_bn + relu"]


def results(model: nn.Module, x: Tensor) -> list[Tensor]:
    """What it computes, and all gradients."""
    leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = model(leaf)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [leaf, *model.parameters()])]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("training", [True, False])
def test_it_computes_what_the_layers_do(training: bool, layout: torch.memory_format) -> None:
    plain = decoder(nn.Tanh()).train(training)
    x = torch.randn(4, 64, 7, 7).contiguous(memory_format=layout)
    exact = copy.deepcopy(plain).double()
    model = fused(plain)
    with assert_runs(PRODUCTS.default, IMAGE.default, backward=False):
        ours = results(model, x)
    moved = Moved(lambda: results(exact, x.double()), torch.float32)
    for i, (one, eager, truth) in enumerate(zip(ours, results(plain, x), results(exact, x.double()), strict=True)):
        assert_parity(one, eager, truth, moved[i])
    assert ours[0].is_contiguous(memory_format=layout)
    assert ours[1].stride() == x.stride()
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, dict(plain.named_buffers())[name])


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("last", [[Viewed()], [nn.Identity(), Viewed()], [nn.ReLU(), nn.Flatten()], []])
def test_others_find_images_as_they_would_be(last: list[nn.Module], grad: bool) -> None:
    """Products answer in channels_last, which a layer that nobody knows, and who called, do not have to know."""
    plain = nn.Sequential(*decoder()[:3], nn.ConvTranspose2d(32, 32, 4, 2, 1), *last).eval()
    model, x = fused(plain), torch.randn(4, 64, 3, 3)
    with torch.set_grad_enabled(grad), ops_run() as ran:
        y = model(x)
        assert y.is_contiguous()
        torch.testing.assert_close(y, plain(x), atol=1e-5, rtol=1e-5)
    assert ran >= DOUBLED


@pytest.mark.parametrize("last", [nn.ReLU(inplace=True), nn.ELU(inplace=True)])
def test_what_follows_may_write_over_its_result(last: nn.Module) -> None:
    plain, x = decoder(last).eval(), torch.randn(4, 64, 7, 7)  # in training the first bias has no gradient but rounding
    with assert_runs(IMAGE.default, backward=False):
        ours = results(fused(plain), x)
    torch.testing.assert_close(ours, results(plain, x), atol=1e-4, rtol=1e-4)


def test_strides_of_one_channel_are_those_that_they_would_be() -> None:
    """Which are both layouts; what follows tells them by their strides."""
    narrow = nn.Sequential(*decoder()[:3], nn.ConvTranspose2d(32, 1, 3, 1, 1)).eval()
    wide = nn.Sequential(*decoder()[:3], nn.ConvTranspose2d(32, 1, 4, 2, 1), nn.Dropout(), nn.Conv2d(1, 8, 3)).eval()
    x = torch.randn(4, 64, 7, 7)
    for plain in (narrow, wide):
        model = fused(plain)
        for layout in (torch.contiguous_format, torch.channels_last):
            y, expected = (each(x.contiguous(memory_format=layout)) for each in (model, plain))
            torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)
            if layout == torch.contiguous_format or plain is wide:
                assert y.stride() == expected.stride()


def test_programs_of_any_size() -> None:
    """The size of an image may be a symbol."""
    model = fused(decoder().eval())
    sizes: list[int] = []

    def count(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        sizes.append(1)
        return graph.forward

    with torch.no_grad():
        program = torch.compile(model, fullgraph=True, dynamic=True, backend=count)
        for size in range(5, 17):
            x = torch.randn(2, 64, size, size + 1)
            torch.testing.assert_close(program(x), model(x), atol=1e-4, rtol=1e-4)
    assert len(sizes) < 8


def test_what_fold_does_not_take() -> None:
    conv = nn.ConvTranspose2d(512, 16, 3, 1, 1, output_padding=1, dilation=2)
    plain = nn.Sequential(nn.ConvTranspose2d(64, 512, 4, 2, 1), nn.ReLU(), conv).eval()
    x = torch.randn(1, 64, 2, 2)
    with torch.no_grad():
        torch.testing.assert_close(fused(plain)(x), plain(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", [ConvTranspose2dChain, nn.Sequential])
@pytest.mark.parametrize("norm", [nn.Identity, lambda: nn.BatchNorm2d(32)])
def test_a_chain_answers_in_the_layout_of_its_input(
    make: Callable[..., nn.Module], norm: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its layers it is channels_last, behind a Sigmoid or a layer without a batch norm, too."""
    monkeypatch.setattr(fastgen.fusing.worth, "pays_transposed", lambda *_: True)
    layers = [
        nn.ConvTranspose2d(64, 32, 4, 2, 1), norm(), nn.ReLU(), nn.ConvTranspose2d(32, 32, 4, 2, 1), nn.Sigmoid(),
        nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.ReLU(), nn.Tanh(),
    ]  # fmt: skip
    model = make(*layers)
    if make is nn.Sequential:
        fastgen.fuse(model)
    x = torch.randn(2, 64, 3, 3)
    for grad in (True, False):
        with torch.set_grad_enabled(grad), ops_run() as ran:
            assert model(x).is_contiguous()
            assert model(x.contiguous(memory_format=torch.channels_last)).is_contiguous(
                memory_format=torch.channels_last
            )
        assert ran & (CHAIN | ALONE | DOUBLED)


def test_where_it_does_not_run() -> None:
    """In float64, in transforms, where somebody looks on: there they are the layers that they were."""
    plain = decoder().eval()
    model, x = fused(plain), torch.randn(4, 64, 7, 7)
    with ops_run() as ran:
        assert torch.equal(copy.deepcopy(model).double()(x.double()), copy.deepcopy(plain).double()(x.double()))
        with torch.autocast("cpu", torch.float16):
            assert torch.equal(model(x), plain(x))
        torch.testing.assert_close(torch.func.jvp(model, (x,), (x,)), torch.func.jvp(plain, (x,), (x,)))
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x, x)
            for one, other in zip(*(forward_ad.unpack_dual(each(dual)) for each in (model, plain)), strict=True):
                torch.testing.assert_close(one, other)
        batched = torch.vmap(model)(x[:, None])[:, 0]
        torch.testing.assert_close(batched, torch.vmap(plain)(x[:, None])[:, 0])
        seen: list[nn.Module] = []
        for layer in (model[0], model[3]):  # type: ignore[index]
            layer.register_forward_hook(lambda module, *_: seen.append(module))
        assert torch.equal(model(x), plain(x))
        assert seen == [model[0], model[3]]  # type: ignore[index]
        with pytest.raises(RuntimeError, match="64 channels"):
            fused(plain)(x[:, :40])
    assert not ran & (ALONE | DOUBLED)


@pytest.mark.parametrize("multiplied", [True, False], ids=["multiplied", "loops"])
@pytest.mark.parametrize("lowered", [True, False], ids=["autocast", "bfloat16"])
@pytest.mark.parametrize("training", [True, False])
def test_in_bfloat16(training: bool, lowered: bool, multiplied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As accurate as torch's, in the layout of what came, with gradients of the weights' dtype: in pairs where a CPU
    multiplies them, in float32 where it does not.
    """
    monkeypatch.setitem(_dtypes._MULTIPLIED, torch.bfloat16, multiplied)
    monkeypatch.setattr(_dtypes, "_HAS_AVX512", multiplied)
    dtype = torch.float32 if lowered else torch.bfloat16
    plain = decoder().train(training).to(dtype)
    model, exact = fused(plain), copy.deepcopy(plain).double()
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(4, 64, 7, 7).to(dtype).contiguous(memory_format=layout)

        def run(which: nn.Module, x: Tensor = x) -> list[Tensor]:
            leaf = x.clone().requires_grad_()
            with torch.autocast("cpu", torch.bfloat16, enabled=lowered and x.dtype == torch.float32):
                y = which(leaf)
            which.zero_grad()
            y.double().square().sum().backward()
            return [y.detach(), *(each.grad for each in (leaf, *which.parameters()))]  # type: ignore[misc]

        with ops_run() as ran:
            found = run(model)
        assert ran >= ALONE
        for one, eager, truth in zip(found, run(plain), run(exact, x.double()), strict=True):
            assert one.dtype == eager.dtype
            assert one.stride() == eager.stride()
            assert (one - truth).norm() <= 1.5 * (eager - truth).norm() + 1e-2 * truth.norm()


@pytest.mark.parametrize("lowered", [True, False], ids=["autocast", "bfloat16"])
def test_where_nothing_was_measured_bfloat16_is_torchs(lowered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a CPU that multiplies pairs without AVX-512."""
    monkeypatch.setitem(_dtypes._MULTIPLIED, torch.bfloat16, True)
    monkeypatch.setattr(_dtypes, "_HAS_AVX512", False)
    dtype = torch.float32 if lowered else torch.bfloat16
    model, x = fused(decoder().to(dtype)), torch.randn(4, 64, 7, 7).to(dtype)
    with ops_run() as ran, torch.autocast("cpu", torch.bfloat16, enabled=lowered):
        model(x)
    assert not ran & (ALONE | DOUBLED)


def test_a_bias_of_another_dtype_is_refused_where_torch_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_dtypes._MULTIPLIED, torch.bfloat16, True)
    for dtype, other in (
        (torch.float32, torch.float64),
        (torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.float32),
    ):
        plain = decoder().eval().to(dtype)
        for i in (0, 3):
            plain[i].bias.data = plain[i].bias.data.to(other)  # type: ignore[union-attr]
        x, model = torch.randn(4, 64, 7, 7).to(dtype), fused(plain)
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                if takes_bias(plain[0], x):
                    torch.testing.assert_close(model(x), plain(x))
                    continue
                for each in (plain, model):
                    with pytest.raises((RuntimeError, TypeError), match=r"bias|dtype|type"):
                        each(x)


def takes_bias(layer: nn.Module, x: Tensor) -> bool:
    """Of bfloat16 a CPU without instructions for it takes one in float32."""
    try:
        layer(x)
    except RuntimeError:
        return False
    return True


def test_it_runs_in_compiled_programs() -> None:
    plain = decoder(nn.Tanh()).eval()
    model, x = fused(plain), torch.randn(4, 64, 7, 7)
    with torch.no_grad(), assert_runs(PRODUCTS.default, IMAGE.default, backward=False):
        torch.testing.assert_close(torch.compile(model, fullgraph=True)(x), plain(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("I", "O", "size", "options", "runs"),
    [
        (64, 32, 7, {"stride": 2, "padding": 1}, True),
        (31, 32, 7, {"stride": 2, "padding": 1}, False),  # few channels
        (32, 31, 7, {"stride": 2, "padding": 1}, False),
        (64, 32, 16, {"stride": 2, "padding": 1}, True),  # little of it is a border, but its kernel is Winograd's
        (64, 32, 15, {"stride": 2, "padding": 1}, True),
        (64, 40, 16, {"stride": 2, "padding": 1}, False),
        (8, 4, 16, {"stride": 2, "padding": 1}, True),
        (8, 5, 16, {"stride": 2, "padding": 1}, False),
        (8, 4, 16, {"stride": 3, "padding": 1}, False),  # 4 taps are no whole strides
        (16, 8, 1, {}, True),  # one pixel
        (16, 8, 1, {"groups": 2}, False),
        (64, 32, 7, {"stride": 2, "padding": 1, "dilation": 2}, False),
    ],
)  # fmt: skip
def test_the_forms_and_their_sizes(I: int, O: int, size: int, options: dict[str, int], runs: bool) -> None:
    conv = nn.ConvTranspose2d(I, O, 4, **options)  # type: ignore[arg-type]
    x = torch.randn(4, I, size, size)
    convolution = conv_transpose2d.check_convolution(
        x, conv_transpose2d.Convolution(conv.weight, conv.bias, conv.stride, conv.padding, conv.output_padding,
                                        conv.dilation, conv.groups)
    )  # fmt: skip
    assert conv_transpose2d.outruns(x, convolution) == runs
    torch.testing.assert_close(conv_transpose2d.conv_transpose2d(x, convolution), conv(x), atol=1e-5, rtol=1e-5)
    for other in (x.double(), x[:0], x.to("meta"), x[0]):
        assert not conv_transpose2d.outruns(other, convolution)
    assert not conv_transpose2d.outruns(x.double(), convolution._replace(weight=conv.weight.double()))
