"""residual_gate: y = x + a·σ(b), with which PixelCNN++'s blocks end, in one pass, in channels_last on the CPU."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoregressive import assert_same_without
from fastgen.models import PixelCNNPP
from fastgen.models.pixelcnnpp_layers import GatedBlock, gated
from fastgen.ops.residual_gate import pays, residual_gate, residual_gate_backward_reference, residual_gate_reference
from fastgen.sampling.compiled_sampler import build_plan
from ops import (
    assert_compiles,
    assert_gradcheck,
    assert_gradients,
    assert_no_forward_mode,
    assert_op_parity,
    assert_opcheck,
    assert_runs,
    assert_second_order,
    ops_run,
    with_threads,
)
from parity import channels_last, contiguous, sliced

OP = torch.ops.fastgen.residual_gate.default
BACKWARD = torch.ops.fastgen.residual_gate_backward.default
LAYOUTS = (contiguous, channels_last, sliced)
SHAPES = {
    "of a block": (3, 32, 9, 7),
    "no vector's width": (2, 37, 6, 5),
    "one channel": (4, 1, 5, 6),
    "one pixel": (2, 7, 1, 1),
    "more than a thread takes": (2, 24, 23, 19),
    "no image": (0, 3, 4, 4),
    "no channel": (2, 0, 4, 4),
    "images without pixels": (2, 3, 0, 4),
}


def arguments(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    N, C, H, W = shape
    x, h = torch.randn(shape, dtype=torch.float64), 3 * torch.randn(N, 2 * C, H, W, dtype=torch.float64)
    return x.to(dtype), h.to(dtype)


def eager(x: Tensor, h: Tensor) -> Tensor:
    a, b = h.chunk(2, dim=1)
    return x + a * torch.sigmoid(b)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", SHAPES)
def test_parity(name: str, dtype: torch.dtype, layout: Any) -> None:
    x, h = arguments(SHAPES[name], dtype)
    assert_op_parity(OP, residual_gate_reference, layout(x), h)
    assert_op_parity(OP, residual_gate_reference, x, layout(h))
    grad_y = torch.randn_like(x)
    assert_op_parity(BACKWARD, residual_gate_backward_reference, layout(grad_y), h)
    assert_op_parity(BACKWARD, residual_gate_backward_reference, grad_y, layout(h))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", SHAPES)
def test_gradients(name: str, layout: Any) -> None:
    assert_gradients([OP], residual_gate, eager, *map(layout, arguments(SHAPES[name])))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_of_both_orders(layout: Any) -> None:
    inputs = [layout(each) for each in arguments((2, 3, 2, 4), torch.float64)]
    assert_gradcheck([OP], residual_gate, *inputs)
    assert torch.autograd.gradcheck(residual_gate_reference, [each.requires_grad_() for each in inputs])
    assert_second_order(residual_gate, *inputs)


def test_each_input_may_be_the_only_one_with_a_gradient() -> None:
    x, h = map(channels_last, arguments((2, 5, 3, 4)))
    grad_y = channels_last(torch.randn_like(x))
    of_x, of_h = (each.clone().requires_grad_() for each in (x, h))
    both = torch.autograd.grad(residual_gate(of_x, of_h), (of_x, of_h), grad_y)
    with ops_run() as ran:
        (grad_x,) = torch.autograd.grad(residual_gate(of_x, h), of_x, grad_y)
    assert "residual_gate_backward" not in ran
    with assert_runs(OP):
        (grad_h,) = torch.autograd.grad(residual_gate(x, of_h), of_h, grad_y)
    assert grad_x.data_ptr() == grad_y.data_ptr(), "of x it is the result's gradient itself"
    assert torch.equal(grad_x, both[0])
    assert torch.equal(grad_h, both[1])


def test_what_is_added_is_not_kept() -> None:
    """A gradient needs no x: it may be written over."""
    x, h = arguments((2, 5, 3, 4))
    y = residual_gate(x, h.requires_grad_())
    expected = torch.autograd.grad(eager(x, h).sum(), h)
    x.zero_()
    torch.testing.assert_close(torch.autograd.grad(y.sum(), h), expected)


def test_torch_knows_it() -> None:
    for layout in LAYOUTS:
        x, h = (layout(each).requires_grad_() for each in arguments((2, 3, 4, 5)))
        assert_opcheck(OP, (x, h))
        assert_opcheck(BACKWARD, (x, h))
    assert_compiles([OP], lambda x, h: residual_gate(x, h).tanh(), *arguments((2, 3, 4, 5)))
    assert_no_forward_mode(lambda x: residual_gate(x, torch.cat((x, x), 1)), torch.randn(2, 3, 4, 5))


def test_what_does_not_fit_is_refused() -> None:
    x, h = arguments((2, 3, 4, 5))
    for op, name in ((OP, "x"), (BACKWARD, "grad_y")):
        with pytest.raises(RuntimeError, match=rf"{name}: expected shape \(N, C, H, W\)"):
            op(x[0], h)
        with pytest.raises(RuntimeError, match=f"{name}: expected float32, float64, float16 or bfloat16"):
            op(x.long(), h.long())
        for other in (h[:, :5], h[:1], h[:, :, :1], h[..., :1], h[0]):
            with pytest.raises(RuntimeError, match="h: expected another shape"):
                op(x, other)
        with pytest.raises(RuntimeError, match="h: expected another dtype"):
            op(x, h.double())


def test_open_and_shut_gates() -> None:
    """Far from zero the gate is one or nothing, and so are its gradients; what is no number shows."""
    x, a = torch.randn(2, 2, 19, 3, 5)
    for b, gate in ((200.0, 1.0), (-200.0, 0.0), (0.0, 0.5)):
        h = torch.cat((a, torch.full_like(a, b)), dim=1)
        torch.testing.assert_close(residual_gate(x, h), x + gate * a, rtol=1e-6, atol=1e-30)
        grad_a, grad_b = BACKWARD(x, h).chunk(2, dim=1)
        torch.testing.assert_close(grad_a, gate * x, rtol=1e-6, atol=1e-30)
        torch.testing.assert_close(grad_b, gate * (1 - gate) * x * a, rtol=1e-6, atol=1e-30)
    h = torch.full((1, 2, 1, 1), torch.nan)
    assert residual_gate(torch.zeros(1, 1, 1, 1), h).isnan().all()
    assert BACKWARD(torch.ones(1, 1, 1, 1), h).isnan().all()


def test_no_number_of_threads_changes_a_thing() -> None:
    x, h = map(channels_last, arguments((5, 24, 33, 31)))
    for op in (OP, BACKWARD):
        one, three = (with_threads(threads, lambda op=op: op(x, h)) for threads in (1, 3))
        assert torch.equal(one, three)
        assert torch.equal(one[3:4], op(x[3:4], h[3:4])), "nor do other images"


# ---- in PixelCNN++


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize("colors", [1, 3])
def test_a_model_runs_it_and_is_the_same_without(colors: int, classes: int | None) -> None:
    model = PixelCNNPP(colors, channels=5, blocks=1, resolutions=2, dropout=0.0, image_size=6, classes=classes)
    assert_same_without(OP, model)


def test_a_plan_is_the_same_by_the_op(monkeypatch: pytest.MonkeyPatch) -> None:
    model = PixelCNNPP(1, 4, channels=6, blocks=1, resolutions=1, dropout=0.0, components=2).eval()

    def plan() -> str:
        return str(build_plan(model, (1, 4, 5), 6, wavefront=False).plan)

    with assert_runs(OP, backward=False):
        ours = plan()
    monkeypatch.setattr("fastgen.models.pixelcnnpp_layers.residual_gate_pays", lambda x, h: False)
    assert ours == plan()


def test_a_block_is_the_same_by_the_op() -> None:
    block, x = GatedBlock(6, True, 0, 0.0, None), channels_last(torch.randn(2, 6, 5, 4))
    with assert_runs(OP, backward=False):
        found = block(x, None, None)
    with ops_run() as ran:
        expected = block(contiguous(x), None, None)
    assert "residual_gate" not in ran
    torch.testing.assert_close(found, expected)


def test_where_it_does_not_pay() -> None:
    """Elsewhere than on a CPU, of another dtype or layout, of what is no gate for x, and where somebody looks on."""
    x, h = map(channels_last, arguments((2, 3, 4, 5)))
    assert pays(x, h)
    for others in (
        (x.to("meta"), h.to("meta")),
        (x, channels_last(h.double())),
        (channels_last(x.double()), channels_last(h.double())),
        (x.half(), h.half()),
        (x, h.bfloat16()),
        (contiguous(x), h),
        (x, contiguous(h)),
        (x, h[:1]),
        (x, h[:, :2]),
        (x[0], h[0]),
    ):
        assert not pays(*others)
    assert pays(x.bfloat16(), h.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert pays(x, h)
    expected = eager(x, h)
    torch.testing.assert_close(gated(x, h), expected)
    torch.testing.assert_close(gated(x, h[:1]), eager(x, h[:1]))
    with ops_run() as ran:
        rows = torch.func.vmap(gated)(x[:, None], h[:, None])
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
            tangent = torch.autograd.forward_ad.unpack_dual(gated(dual, h)).tangent
    assert "residual_gate" not in ran
    torch.testing.assert_close(rows[:, 0], expected)
    assert torch.equal(tangent, torch.ones_like(x))


def test_it_runs_in_compiled_programs_and_not_in_exported_ones() -> None:
    """A compiler's own loop of it takes longer: in a compiled PixelCNN++ it was behind the layers as they are."""
    x, h = map(channels_last, arguments((2, 3, 4, 5)))
    with ops_run() as ran:
        torch.testing.assert_close(torch.compile(gated, fullgraph=True, backend="aot_eager")(x, h), eager(x, h))
    assert "residual_gate" in ran

    class Gate(nn.Module):
        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            return gated(x, h)

    program = torch.export.export(Gate(), (x, h))
    assert "residual_gate" not in program.graph_module.code
