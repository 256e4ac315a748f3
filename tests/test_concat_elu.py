"""concat_elu: elu of x and of −x within a border of zeros, which PixelCNN++'s convolutions read."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen.models import PixelCNNPP
from fastgen.models.pixelcnnpp_layers import concat_elu as of_a_model
from fastgen.ops.concat_elu import concat_elu, concat_elu_backward_reference, concat_elu_reference, pays
from ops import (
    assert_compiles,
    assert_gradcheck,
    assert_gradients,
    assert_op_parity,
    assert_opcheck,
    assert_runs,
    assert_second_order,
    ops_run,
    with_threads,
)
from parity import channels_last, contiguous, sliced

OP = torch.ops.fastgen.concat_elu.default
BACKWARD = torch.ops.fastgen.concat_elu_backward.default
LAYOUTS = (contiguous, channels_last, sliced)
# x, and left, right, top, bottom
SHAPES = {
    "of a stream": ((3, 32, 9, 7), (1, 1, 1, 0)),
    "of the other": ((2, 37, 6, 21), (1, 0, 1, 0)),
    "every side": ((2, 3, 4, 5), (1, 2, 3, 4)),
    "no border": ((2, 5, 3, 19), (0, 0, 0, 0)),
    "one channel": ((4, 1, 5, 6), (2, 0, 0, 1)),
    "one pixel": ((2, 7, 1, 1), (0, 0, 0, 0)),
    "a border alone": ((2, 3, 0, 4), (1, 1, 2, 0)),
    "no image": ((0, 3, 4, 4), (1, 1, 1, 1)),
}


def eager(x: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    return F.pad(F.elu(torch.cat((x, -x), dim=1)), padding)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", SHAPES)
def test_parity(name, dtype, layout):
    shape, padding = SHAPES[name]
    x = layout(3 * torch.randn(shape, dtype=torch.float64).to(dtype))
    assert_op_parity(OP, concat_elu_reference, x, list(padding))
    y = OP(x, list(padding))
    grad_y = layout(torch.randn(y.shape, dtype=torch.float64).to(dtype))
    assert_op_parity(BACKWARD, concat_elu_backward_reference, grad_y, y, list(padding))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", SHAPES)
def test_gradients(name, layout):
    shape, padding = SHAPES[name]
    x = layout(torch.randn(shape))
    assert_gradients([OP], lambda x: concat_elu(x, padding), lambda x: eager(x, padding), x)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_of_both_orders(layout):
    x = layout(torch.randn(2, 3, 2, 4).double())
    assert_gradcheck([OP], lambda x: concat_elu(x, (1, 2, 0, 1)), x)
    assert_second_order(lambda x: concat_elu(x, (1, 2, 0, 1)), x)


@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_what_is_no_number_shows_and_zeros_have_elus_slope(layout):
    """At zero both of elu's slopes are one."""
    values = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 90.0, -90.0, 1e-30, -1e-8])
    x = layout(values.view(1, 3, 1, 3).expand(2, -1, 4, -1).clone()).requires_grad_()
    padding = (1, 1, 1, 1)
    y, expected = concat_elu(x, padding), eager(x, padding)
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=0, equal_nan=True)
    grad_y = torch.randn_like(y)
    one, two = (torch.autograd.grad(result, x, grad_y)[0] for result in (y, expected))
    assert one[x.isnan()].isnan().all(), "where torch's own loops tell a vector from its rest"
    torch.testing.assert_close(one[~x.isnan()], two[~x.isnan()], rtol=1e-6, atol=1e-7)


def test_no_number_of_threads_changes_a_thing():
    x = channels_last(torch.randn(5, 24, 33, 31))
    y = with_threads(1, lambda: concat_elu(x, (1, 1, 1, 0)))
    assert torch.equal(y, with_threads(3, lambda: concat_elu(x, (1, 1, 1, 0))))
    grad_y = torch.randn_like(y)
    one, three = (with_threads(threads, lambda: BACKWARD(grad_y, y, [1, 1, 1, 0])) for threads in (1, 3))
    assert torch.equal(one, three)


def test_torch_knows_it():
    for layout in LAYOUTS:
        x = layout(torch.randn(2, 3, 4, 5)).requires_grad_()
        y = OP(x, [1, 0, 2, 0]).detach().requires_grad_()
        assert_opcheck(OP, (x, [1, 0, 2, 0]))
        assert_opcheck(BACKWARD, (layout(torch.randn(y.shape)).requires_grad_(), y, [1, 0, 2, 0]))
    assert_compiles([OP], lambda x: concat_elu(x, (1, 0, 2, 0)).tanh(), torch.randn(2, 3, 4, 5))


def test_what_does_not_fit_is_refused():
    for padding in ([1, 1], [-1, 0, 0, 0], [0, 0, 0, 2**40]):
        with pytest.raises(RuntimeError, match="padding: expected"):
            OP(torch.ones(1, 1, 2, 2), padding)
    with pytest.raises(RuntimeError, match="x: expected"):
        OP(torch.ones(2, 2), [0, 0, 0, 0])
    for dtype in (torch.int64, torch.float16):
        with pytest.raises(RuntimeError, match="x: expected float32, float64 or bfloat16"):
            OP(torch.ones(1, 1, 2, 2, dtype=dtype), [0, 0, 0, 0])
    y = torch.ones(1, 2, 4, 4)
    with pytest.raises(RuntimeError, match="y: expected an image within its padding"):
        BACKWARD(y, y, [3, 2, 0, 0])
    with pytest.raises(RuntimeError, match=r"y: expected shape \(N, 2C, H, W\)"):
        BACKWARD(y[:, :1], y[:, :1], [0, 0, 0, 0])
    for grad_y in (y[:, :, :3], y.double()):
        with pytest.raises(RuntimeError, match="grad_y: expected another"):
            BACKWARD(grad_y, y, [0, 0, 0, 0])


# ---- in PixelCNN++


@pytest.mark.parametrize("size", [(6, 5), (1, 1)])
def test_a_model_computes_the_same_without_it(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    model = PixelCNNPP(1, 4, channels=6, blocks=1, resolutions=2, dropout=0.0, components=2).double()
    values = torch.randint(4, (3, 1, *size))

    def run() -> list[Tensor]:
        nats = model.log_prob(values)
        return [nats.detach(), *torch.autograd.grad(nats.sum(), list(model.parameters()))]

    with assert_runs(OP):
        ours = run()
    with monkeypatch.context() as patch, ops_run() as ran:
        patch.setattr("fastgen.models.pixelcnnpp_layers.concat_elu_pays", lambda x: False)
        plain = run()
    assert "concat_elu" not in ran
    for one, two in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, two)


def test_where_it_does_not_pay() -> None:
    """Elsewhere than on a CPU, in float16, and where somebody looks on."""
    x = torch.randn(2, 3, 4, 5)
    assert pays(x)
    for other in (x.to("meta"), x.half()):
        assert not pays(other)
    with ops_run() as ran:
        y = torch.func.vmap(lambda each: of_a_model(each, (1, 0, 1, 0)))(x[:, None])
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
            tangent = torch.autograd.forward_ad.unpack_dual(of_a_model(dual)).tangent
    assert "concat_elu" not in ran
    torch.testing.assert_close(y[:, 0], eager(x, (1, 0, 1, 0)))
    assert tangent is not None


def test_a_model_of_halves_keeps_elus_slope() -> None:
    x = torch.linspace(-9, -0.01, 64, dtype=torch.bfloat16).view(1, 1, 8, 8).requires_grad_()
    (grad,) = torch.autograd.grad(of_a_model(x).sum(), x)
    assert ((grad + 1 - x.exp()).abs() <= 0.01).all()


def test_every_bfloat16() -> None:
    """Of all numbers that a bfloat16 may be, each result and gradient is the nearest, or next to it."""
    bits = torch.arange(2**16).to(torch.int16).view(1, 64, 32, 32)
    x = channels_last(bits.view(torch.bfloat16)).requires_grad_()
    exact = x.detach().double().requires_grad_()
    grad = channels_last(torch.randn(1, 128, 32, 32)).bfloat16()
    with assert_runs(OP, backward=False):
        y = concat_elu(x)
    expected = eager(exact, (0, 0, 0, 0))
    (slope,) = torch.autograd.grad(y, x, grad)
    (its,) = torch.autograd.grad(expected, exact, grad.double())
    size = grad.double().abs()
    for found, right, unit in ((y, expected, expected.abs()), (slope, its, size[:, :64] + size[:, 64:])):
        assert torch.equal(found.isnan(), right.isnan())
        finite = right.isfinite()
        assert torch.equal(found[~finite & ~right.isnan()].double(), right[~finite & ~right.isnan()])
        error = (found.double() - right)[finite].abs()
        assert (error <= (2**-8 + 1e-4) * unit[finite] + 1e-38).all()


def test_dropout_may_write_in_place() -> None:
    model = PixelCNNPP(1, 4, channels=6, blocks=1, resolutions=1, dropout=0.5, components=2).train()
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.inplace = True
    with assert_runs(OP):
        model(torch.randn(2, 1, 4, 4)).sum().backward()


@pytest.mark.parametrize("name", ["vmap", "grad"])
def test_a_model_compiles_under_transforms(name: str) -> None:
    model = PixelCNNPP(1, 4, channels=4, blocks=1, resolutions=1, dropout=0.0, components=2).eval()
    x = torch.randn(3, 2, 1, 4, 4)

    def run(x: Tensor) -> Tensor:
        if name == "grad":
            return torch.func.grad(lambda x: model(x).sum())(x[0])
        return torch.func.vmap(lambda each: model(each))(x)

    whole = torch.compile(run, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(whole(x), run(x))
