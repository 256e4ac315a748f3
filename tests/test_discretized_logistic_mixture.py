"""discretized_logistic_mixture: log Σₖ softmax(π)ₖ Π_c P(v_c | μₖ_c, sₖ_c)."""

import math
from decimal import Decimal, localcontext

import pytest
import torch
from torch import Tensor

from fastgen.nn import DiscretizedLogisticMixture
from fastgen.ops import discretized_logistic_mixture
from fastgen.ops.discretized_logistic_mixture import (
    discretized_logistic_mixture_backward_reference,
    discretized_logistic_mixture_reference,
)
from mixtures import pixels
from ops import (
    assert_compiles,
    assert_gradcheck,
    assert_gradients,
    assert_no_forward_mode,
    assert_op_parity,
    assert_opcheck,
    assert_raises,
    assert_runs,
    assert_second_order,
)
from parity import DTYPES, LAYOUTS, channels_last
from pixelcnnpp import literal_log_likelihood

OP = torch.ops.fastgen.discretized_logistic_mixture.default
BACKWARD = torch.ops.fastgen.discretized_logistic_mixture_backward.default
SHAPES = (  # N, C, K, H, W
    (0, 3, 2, 3, 3), (2, 1, 3, 0, 4), (1, 1, 1, 1, 1), (1, 3, 2, 1, 1), (3, 3, 7, 5, 11), (2, 1, 5, 13, 3),
    (2, 3, 10, 32, 32),
)  # fmt: skip


def torch_channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [*LAYOUTS, torch_channels_last])
@pytest.mark.parametrize("shape", SHAPES)
def test_parity(shape: tuple[int, int, int, int, int], layout, dtype: torch.dtype, device: str) -> None:
    params, values, grad = pixels(shape, dtype, device)
    params = layout(params)
    values = layout(values.double()).to(torch.uint8 if dtype == torch.bfloat16 else torch.int64)  # keeps dense strides
    assert_op_parity(OP, discretized_logistic_mixture_reference, params, values, 256)
    assert_op_parity(BACKWARD, discretized_logistic_mixture_backward_reference, grad, params, values, 256)


@pytest.mark.parametrize("levels", [2, 3, 32, 65536])
def test_parity_of_other_levels(levels: int, device: str) -> None:
    params, values, grad = pixels((2, 3, 4, 5, 7), torch.float32, device, levels)
    assert_op_parity(OP, discretized_logistic_mixture_reference, params, values, levels)
    assert_op_parity(BACKWARD, discretized_logistic_mixture_backward_reference, grad, params, values, levels)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("C", "levels"), [(1, 256), (3, 256), (3, 32)])
def test_gradients(C: int, levels: int, dtype: torch.dtype, device: str) -> None:
    """The backward pass against autograd's of the forward reference."""
    params, values, _ = pixels((3, C, 4, 9, 8), dtype, device, levels)
    assert_gradients(
        [OP],
        lambda p: discretized_logistic_mixture(p, values, levels),
        lambda p: discretized_logistic_mixture_reference(p, values, levels),
        params,
    )


@pytest.mark.parametrize("C", [1, 3])
@pytest.mark.parametrize("log_scale", [-5.0, 0.0])
def test_gradcheck(C: int, log_scale: float, device: str) -> None:
    params, values, _ = pixels((1, C, 3, 3, 2), torch.float64, device, log_scale=log_scale)
    assert_gradcheck([OP], lambda p: discretized_logistic_mixture(p, values), params)


def test_opcheck(device: str) -> None:
    params, values, grad = pixels((2, 3, 2, 4, 5), torch.float32, device)
    for layout in (Tensor.contiguous, channels_last, torch_channels_last):
        p, v = layout(params), layout(values)
        assert_opcheck(OP, (p.requires_grad_(), v, 256))
        assert_opcheck(BACKWARD, (grad, p.detach(), v, 256))


def test_compile(device: str) -> None:
    params, values, _ = pixels((2, 3, 2, 4, 5), torch.float32, device)
    assert_compiles([OP], lambda p: discretized_logistic_mixture(p, values), params)


def test_second_order_but_not_forward_mode() -> None:
    for colors in (1, 3):
        params, values, _ = pixels((1, colors, 2, 3, 3))
        assert_second_order(lambda p, v=values: discretized_logistic_mixture(p, v), params.double())
    assert_no_forward_mode(lambda p: discretized_logistic_mixture(p, values), params)


def test_errors() -> None:
    params, values, _ = pixels((2, 3, 2, 4, 5))
    too_high = values.clone()
    too_high[1, 2, 3, 4] = 256
    f = discretized_logistic_mixture
    assert_raises(
        [
            (lambda: f(params, values[0]), ValueError, r"values: expected shape \(N, 1 or 3, H, W\), got \(3, 4, 5\)"),
            (lambda: f(params, values[:, :2]), ValueError, r"values: expected .* got \(2, 2, 4, 5\)"),
            (lambda: f(params[1:], values), ValueError, r"params: expected shape \(2, P, 4, 5\), got \(1, 20, 4, 5\)"),
            (lambda: f(params[:, :7], values), ValueError, "params: expected 10·K channels for 3 colours, got 7"),
            (lambda: f(params, values[:, :1]), ValueError, "params: expected 3·K channels for 1 colours, got 20"),
            (lambda: f(params.int(), values), TypeError, "params: expected float32, .* got torch.int32"),
            (lambda: f(params, values.float()), TypeError, "values: expected an integer tensor, got torch.float32"),
            (lambda: f(params, values, 1), ValueError, "levels: expected an integer of at least 2, got 1"),
            (lambda: f(params, values, 2.0), ValueError, "levels: expected an integer of at least 2, got 2.0"),
            (lambda: f(params, too_high), ValueError, r"values: expected integers in \[0, 256\), got .* to 256"),
            (lambda: f(params, -values - 1), ValueError, r"values: expected integers in \[0, 256\), got .* to -1"),
            (lambda: f(params, values.to("meta")), ValueError, "values: expected the device of params, cpu, got meta"),
            (
                lambda: DiscretizedLogisticMixture(3)(params, values),
                ValueError,
                "params: expected 30 channels for 3 mixtures of 3 colours, got 20",
            ),
            (lambda: DiscretizedLogisticMixture(0), ValueError, "mixtures: expected a positive integer, got 0"),
            (lambda: DiscretizedLogisticMixture().param_channels(2), ValueError, "channels: expected 1 or 3"),
        ]
    )


@pytest.mark.parametrize("C", [1, 3])
def test_it_is_the_loss_of_pixelcnnpp(C: int, device: str) -> None:
    """Where no probability is below the thresholds of the original, it is the original."""
    params, values, grad = pixels((2, C, 5, 6, 7), torch.float64, device, log_scale=0.0)
    params.requires_grad_()
    ours, theirs = discretized_logistic_mixture(params, values), literal_log_likelihood(params, values)
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(result, params, grad)[0] for result in (ours, theirs)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(("v", "mean"), [(10, 1.0), (0, 0.9), (255, -0.8), (128, 0.9)])
def test_small_probabilities_are_exact(v: int, mean: float, device: str) -> None:
    """A difference of sigmoids hundreds of scales away, against the same in 50 digits; the original approximates it."""
    params = torch.tensor([0.0, mean, -6.5], dtype=torch.float64, device=device).view(1, 3, 1, 1)
    values = torch.full((1, 1, 1, 1), v, device=device)
    with localcontext() as context:
        context.prec = 50
        x, half = Decimal(2 * v - 255) / 255, 1 / Decimal(255)
        sign = -1 if x > Decimal(mean) else 1  # σ(z) = 1 − σ(−z): the tail that is small
        edges = [sign * (x + side * half - Decimal(mean)) / Decimal("-6.5").exp() for side in (-sign, sign)]
        low, high = (1 / (1 + (-z).exp()) for z in edges)
        low, high = (Decimal(0) if v in (0, 255) else low), high
        expected = float((high - low).ln())
    torch.testing.assert_close(discretized_logistic_mixture(params, values).item(), expected)


@pytest.mark.parametrize("C", [1, 3])
@pytest.mark.parametrize("log_scale", [-7.0, -3.0, 1.0])
def test_probabilities_of_a_colour_sum_to_one(C: int, log_scale: float, device: str) -> None:
    """Over all values of the last colour, given the others: their likelihood is what the sum is relative to."""
    params, values, _ = pixels((1, C, 4, 1, 1), torch.float64, device, log_scale=log_scale)
    values = values.expand(256, C, 1, 1).clone()
    values[:, -1, 0, 0] = torch.arange(256, device=device)
    joint = discretized_logistic_mixture(params.expand(256, -1, -1, -1), values).logsumexp(0).squeeze()
    if C == 1:
        torch.testing.assert_close(joint, torch.zeros_like(joint))
        return
    values[:, 1, 0, 0] = torch.arange(256, device=device)
    whole = []
    for blue in range(256):  # and over green, given red: both sums give the likelihood of red
        values[:, 2] = blue
        whole.append(discretized_logistic_mixture(params.expand(256, -1, -1, -1), values))
    K = params.shape[1] // 10
    red = discretized_logistic_mixture(params[:, : 3 * K], values[:1, :1]).squeeze()
    torch.testing.assert_close(torch.cat(whole).flatten().logsumexp(0), red)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("C", [1, 3])
def test_extremes_are_finite(C: int, dtype: torch.dtype, device: str) -> None:
    """Parameters up to 1e30; in float16 up to 50, since the gradients of those that are larger overflow it."""
    largest = 50.0 if dtype == torch.float16 else 1e30
    extremes = torch.tensor([0.0, 1e-3, -8.0, -7.0, 3.0, 50.0, largest, -largest], dtype=dtype, device=device)
    params = extremes[torch.randint(8, (8, 10 * C if C == 3 else 6, 16, 16), device=device)].requires_grad_()
    values = torch.tensor([0, 1, 127, 254, 255], device=device)[torch.randint(5, (8, C, 16, 16), device=device)]
    result = discretized_logistic_mixture(params, values)
    assert result.isfinite().all()
    assert (result <= 0).all()
    assert torch.autograd.grad(result.sum(), params)[0].isfinite().all()


def test_clamp_and_its_gradient(device: str) -> None:
    """Below −7 a log-scale counts as −7 and has no gradient; at −7 it has."""
    log_scales = torch.tensor([-1e4, -7.001, -7.0, -6.999], device=device)
    params = torch.stack((torch.zeros_like(log_scales), torch.full_like(log_scales, 0.01), log_scales))
    params = params.view(1, 3, 1, 4).requires_grad_()
    result = discretized_logistic_mixture(params, torch.full((1, 1, 1, 4), 128, device=device))
    assert torch.equal(result[..., :2], result[..., 2:3].expand(1, 1, 2))
    (grad,) = torch.autograd.grad(result.sum(), params)
    assert grad[0, 2, 0, :2].tolist() == [0, 0]
    assert (grad[0, 2, 0, 2:] != 0).all()


def test_nan_and_values_out_of_range_spoil_their_own_pixel_only(device: str) -> None:
    params, values, grad = pixels((1, 3, 2, 2, 3), torch.float32, device)
    values[0, 1, 0, 1], values[0, 2, 1, 0], params[0, 7, 1, 2] = 256, -1, math.nan
    spoilt = torch.tensor([[[False, True, False], [True, False, True]]], device=device)
    assert torch.equal(OP(params, values, 256).isnan(), spoilt)
    grads = BACKWARD(grad, params, values, 256)
    assert torch.equal(grads.isnan().any(1), spoilt)
    compiled = torch.compile(discretized_logistic_mixture, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(params, values).isnan(), spoilt)


def test_a_component_of_weight_zero_is_not_there(device: str) -> None:
    params, values, grad = pixels((1, 1, 3, 4, 4), torch.float32, device)
    params[:, 1] = -math.inf
    keep = [0, 2, 3, 5, 6, 8]
    assert torch.equal(OP(params, values, 256), OP(params[:, keep].contiguous(), values, 256))
    grads = BACKWARD(grad, params, values, 256)
    assert torch.equal(grads[:, keep], BACKWARD(grad, params[:, keep].contiguous(), values, 256))


def test_every_pixel_alone_agrees_with_the_batch(device: str) -> None:
    """Whole tiles, ragged ones and every layout compute the same function."""
    params, values, grad = pixels((2, 3, 3, 7, 11), torch.float32, device)
    whole, grads = OP(params, values, 256), BACKWARD(grad, params, values, 256)
    one = [OP(params[:, :, :, [w]], values[:, :, :, [w]], 256) for w in range(11)]
    assert torch.equal(torch.cat(one, 2), whole)
    assert torch.equal(OP(params[..., 2:9], values[..., 2:9], 256), whole[..., 2:9])
    p, v = torch_channels_last(params), torch_channels_last(values)
    assert torch.equal(OP(p, v.to(torch.uint8), 256), whole)
    assert torch.equal(BACKWARD(grad, p, v, 256), grads)


def test_module_is_the_loss_in_nats_per_image() -> None:
    params, values, _ = pixels((2, 3, 4, 5, 6))
    module = DiscretizedLogisticMixture(mixtures=4)
    assert not module.state_dict()
    assert (module.param_channels(1), module.param_channels(3)) == (12, 40)
    with assert_runs(OP):
        loss = module(params.requires_grad_(), values.to(torch.int16))
        loss.sum().backward()
    assert torch.equal(loss, -OP(params, values, 256).sum((1, 2)))
    few = values // 8
    assert torch.equal(DiscretizedLogisticMixture(4, levels=32)(params, few), -OP(params, few, 32).sum((1, 2)))
