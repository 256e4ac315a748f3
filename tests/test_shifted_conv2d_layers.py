"""The layers of PixelCNN++ that are ``shifted_conv2d`` on a CPU, and those that no longer are."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autoregressive import assert_same_without
from fastgen.models import PixelCNNPP
from fastgen.models.pixelcnnpp_layers import GatedBlock, ShiftedConv2d, added, pointwise
from fastgen.ops.shifted_conv2d import shifted_conv2d, shifted_conv2d_reference
from ops import assert_runs, ops_run
from parity import channels_last, contiguous

OP = torch.ops.fastgen.shifted_conv2d.default


@pytest.fixture(autouse=True)
def _small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it run on few pixels, too."""
    monkeypatch.setattr("fastgen.ops.shifted_conv2d.FEWEST_PIXELS", 1)


@pytest.mark.parametrize("right", [False, True])
def test_a_layer_is_one_op_unless_its_convolution_is_another(right: bool) -> None:
    """Whatever it has become, the layer computes what it does."""
    x = channels_last(torch.randn(2, 16, 5, 6)).requires_grad_()

    def layer(stride: int = 1) -> Any:
        return ShiftedConv2d(16, 16, (2, 2) if right else (2, 3), right, stride, activated=True)

    def one_by_one(layer: Any, x: Tensor) -> Tensor:
        return layer.conv(F.pad(F.elu(torch.cat((x, -x), 1)), layer.padding))

    for made in (layer(), parametrize.remove_parametrizations(layer().conv, "weight") and layer()):
        with assert_runs(OP):
            y = made(x)
            y.sum().backward()
        torch.testing.assert_close(y, one_by_one(made, x))
    changes: dict[str, Callable[[Any], Any]] = {
        "a hook": lambda layer: layer.conv.register_forward_hook(lambda *_: None),
        "groups": lambda layer: setattr(layer, "conv", nn.Conv2d(32, 16, layer.conv.kernel_size, groups=2)),
        "padding": lambda layer: setattr(layer, "conv", nn.Conv2d(32, 16, layer.conv.kernel_size, padding=1)),
        "a class of one's own": lambda layer: setattr(
            layer, "conv", type("Own", (nn.Conv2d,), {})(32, 16, layer.conv.kernel_size)
        ),
        "a forward of one's own": lambda layer: setattr(layer.conv, "forward", lambda x: x[:, :16] * 2),
        "half of a forward": lambda layer: setattr(layer.conv, "_conv_forward", lambda x, weight, bias: x * 2),
        "other padding": lambda layer: setattr(layer, "padding", (1, 1, 0, 1)),
        "another kernel": lambda layer: setattr(layer, "conv", nn.Conv2d(32, 16, (2, 1))),
    }
    for what, change in changes.items():
        made = layer()
        change(made)
        with ops_run() as ran:
            torch.testing.assert_close(made(x), one_by_one(made, x), msg=what)
        assert "shifted_conv2d" not in ran, what
    with ops_run() as ran:
        made = layer(stride=2)
        torch.testing.assert_close(made(x), one_by_one(made, x))
    assert "shifted_conv2d" not in ran
    bare = layer()
    parametrize.remove_parametrizations(bare.conv, "weight")
    with assert_runs(OP, backward=False):
        torch.testing.assert_close(bare(x), one_by_one(bare, x))
    with pytest.raises(RuntimeError, match="expected input"):
        layer()(channels_last(x[:, :15]))


def test_added() -> None:
    """A 1×1 convolution and what joins it, by the op and without."""
    x, h = channels_last(torch.randn(2, 32, 5, 6)), channels_last(torch.randn(2, 16, 5, 6))
    conv = pointwise(32, 16)
    with assert_runs(OP, backward=False):
        found = added(conv, x, h)
    torch.testing.assert_close(found, conv(x) + h)
    torch.testing.assert_close(added(conv, x), conv(x))
    with ops_run() as ran:
        torch.testing.assert_close(added(conv, contiguous(x), contiguous(h)), conv(x) + h)
        torch.testing.assert_close(added(nn.Identity(), h, h), 2 * h)
        for more in (h[:, :, :1, :1], h[:1], h.double()):
            torch.testing.assert_close(added(conv, x, more), conv(x) + more)
        wide = nn.Conv2d(32, 16, 3)  # which pads nothing
        torch.testing.assert_close(added(wide, x), wide(x))
    assert "shifted_conv2d" not in ran


def test_what_joins_it_keeps_its_dtype_under_autocast() -> None:
    x, h, conv = channels_last(torch.randn(2, 32, 5, 6)), channels_last(torch.randn(2, 16, 5, 6)), pointwise(32, 16)
    with torch.autocast("cpu", torch.bfloat16):
        for image in (x, x.bfloat16()):
            for more in (h, h.bfloat16()):
                with ops_run() as ran:
                    found = added(conv, image, more)
                assert ("shifted_conv2d" in ran) == (more.dtype == torch.bfloat16)
                assert found.dtype == (more + conv(image)).dtype
                torch.testing.assert_close(found, more + conv(image), atol=0.02, rtol=0.02)


@pytest.mark.parametrize("normed", [True, False])
def test_weights_and_images_of_two_dtypes_are_refused_as_torch_refuses_them(normed: bool) -> None:
    for image, weight, bias in (
        (torch.float32, torch.float64, torch.float32),
        (torch.float32, torch.bfloat16, torch.float32),
        (torch.float32, torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.bfloat16, torch.float32),
    ):
        conv: Any = pointwise(16, 16) if normed else nn.Conv2d(16, 16, 1)
        for parameter in conv.parameters():
            parameter.data = parameter.data.to(bias if parameter is conv.bias else weight)
        with pytest.raises(RuntimeError, match=r"dtype|type|Mismatch|mismatch"):
            added(conv, channels_last(torch.randn(2, 16, 16, 16)).to(image))


@pytest.mark.parametrize("other", [False, True])
def test_a_block_is_the_same_by_the_op(other: bool) -> None:
    block = GatedBlock(16, True, 16 * other, 0.0, None)
    x, more = channels_last(torch.randn(2, 16, 5, 6)), channels_last(torch.randn(2, 16, 5, 6)) if other else None
    with assert_runs(OP, backward=False):
        found = block(x, more, None)
    with ops_run() as ran:
        expected = block(contiguous(x), None if more is None else contiguous(more), None)
    assert "shifted_conv2d" not in ran
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("colors", [1, 3])
def test_a_model_runs_it_and_is_the_same_without(colors: int) -> None:
    model = PixelCNNPP(colors, channels=16, blocks=1, resolutions=2, dropout=0.0, image_size=6)
    assert_same_without(OP, model)


def test_dropout_of_what_is_read() -> None:
    """Without zeros around it; in place, too."""
    for inplace in (False, True):
        layer, dropout = ShiftedConv2d(16, 16, (2, 3), False, activated=True), nn.Dropout(0.5, inplace)
        x = channels_last(torch.randn(2, 16, 5, 6)).requires_grad_()
        with assert_runs(OP):
            torch.manual_seed(0)
            y = layer(x, dropout)
            y.sum().backward()
        torch.manual_seed(0)
        seen = F.dropout(channels_last(F.elu(torch.cat((x, -x), 1))), 0.5)
        torch.testing.assert_close(y, shifted_conv2d_reference(seen, layer.conv.weight, layer.conv.bias, None, 1))
        assert shifted_conv2d(channels_last(seen), layer.conv.weight, None, None, 1).shape == y.shape


def test_a_dropout_of_another_kind_sees_the_zeros_too() -> None:
    class Noise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1

    layer, x = ShiftedConv2d(16, 16, (2, 3), False, activated=True), channels_last(torch.randn(2, 16, 5, 6))
    with ops_run() as ran:
        torch.testing.assert_close(layer(x, Noise()), layer(contiguous(x), Noise()))
    assert "shifted_conv2d" not in ran
    with assert_runs(OP, backward=False):
        layer(x, nn.Dropout2d(0.5))


def test_in_compiled_programs_and_exported_ones() -> None:
    """A compiled one runs it, of any number of images, within vmap as well; an exported one does not."""
    model = PixelCNNPP(1, channels=16, blocks=1, resolutions=1, dropout=0.0, image_size=8).eval()
    x = torch.rand(4, 1, 8, 8)
    expected = model(x).detach()
    close = {"atol": 1e-4, "rtol": 1e-4}
    with torch.no_grad():
        seen: list[str] = []

        def look(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
            seen.append(graph.code)
            return graph.forward

        program = torch.compile(model, fullgraph=True, dynamic=True, backend=look)
        for n in (4, 3):
            torch.testing.assert_close(program(x[:n]), expected[:n], **close)
        assert seen
        assert all("fastgen.shifted_conv2d" in code for code in seen)
        each = torch.compile(torch.vmap(lambda image: model(image[None])[0]), backend="aot_eager")
        torch.testing.assert_close(each(x), expected, **close)
        exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("n", min=1, max=64)},))
    torch.testing.assert_close(exported.module()(x[:3]), expected[:3], **close)
    assert "shifted_conv2d" not in exported.graph_module.code
