"""binary_cross_entropy: −Σ t·log σ(l) + (1 − t)·log σ(−l) of each image."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from fastgen.models.likelihoods import likelihood
from fastgen.ops import binary_cross_entropy
from fastgen.ops.binary_cross_entropy import (
    NUMBERS,
    binary_cross_entropy_backward_reference,
    binary_cross_entropy_reference,
    pays,
)
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
    ops_run,
    with_threads,
)
from parity import DTYPES

OP = torch.ops.fastgen.binary_cross_entropy.default
BACKWARD = torch.ops.fastgen.binary_cross_entropy_backward.default
#: Of the targets, and how many samples of logits there are for each.
SHAPES = {
    "rows": ((5, 784), ()),
    "short rows, several in a tile": ((300, 7), ()),
    "rows of more than a tile": ((3, 2500), ()),
    "images": ((4, 3, 5, 6), ()),
    "samples of images": ((3, 2, 4, 5), (4,)),
    "samples of samples of long rows": ((2, 1100), (3, 2)),
    "one number each": ((9,), ()),
    "samples of one number each": ((9,), (5,)),
    "no image": ((0, 12), (2,)),
    "no sample": ((4, 12), (0,)),
    "empty images": ((4, 0), ()),
}
Shape = tuple[tuple[int, ...], tuple[int, ...]]


def batch(shape: Shape, dtype: torch.dtype = torch.float32, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Greys, white and black."""
    sizes, samples = shape
    greys = torch.rand(sizes)
    target = torch.where(torch.rand(sizes) < 0.5, greys, greys.round()).to(torch.promote_types(dtype, torch.float32))
    return (4 * torch.randn(*samples, *sizes)).to(device, dtype), target.to(device)


def reversed_memory(tensor: Tensor) -> Tensor:
    """Dimensions the other way around in memory, channels_last of four."""
    if tensor.dim() == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor.permute(*reversed(range(tensor.dim()))).contiguous().permute(*reversed(range(tensor.dim())))


def plain(logits: Tensor, target: Tensor) -> Tensor:
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    each = F.binary_cross_entropy_with_logits(wide, target.to(wide.dtype).expand_as(wide), reduction="none")
    return each.flatten(logits.dim() - target.dim() + 1).sum(-1) if target.dim() > 1 else each


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("laid", [Tensor.contiguous, reversed_memory])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_parity(shape: Shape, laid: Callable[[Tensor], Tensor], dtype: torch.dtype, device: str) -> None:
    logits, target = batch(shape, dtype, device)
    logits = laid(logits)
    assert_op_parity(OP, binary_cross_entropy_reference, logits, target)
    grad = torch.randn(OP(logits, target).shape, device=device, dtype=target.dtype)
    for each in (grad, grad[:1].expand_as(grad) if grad.numel() else grad):
        assert_op_parity(BACKWARD, binary_cross_entropy_backward_reference, each, logits, target)
    lies = binary_cross_entropy_backward_reference(grad, logits, target).stride()
    assert lies == BACKWARD(grad, logits, target).stride()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [((16, 784), ()), ((12, 3, 16, 16), (2,))])
def test_gradients(shape: Shape, dtype: torch.dtype, device: str) -> None:
    """The sums and the gradient are torch's, of images in either layout."""
    logits, target = batch(shape, dtype, device)
    for laid in (Tensor.contiguous, reversed_memory):
        assert_gradients(
            [OP], lambda l: binary_cross_entropy(l, target), lambda l: plain(l, target), laid(logits)
        )  # fmt: skip


def test_gradcheck(device: str) -> None:
    logits, target = batch(((2, 3, 2, 2), (2,)), torch.float64, device)
    assert_gradcheck([OP], lambda l: OP(l, target), logits)


def test_far_from_zero(device: str) -> None:
    """Of a logit that is sure and right what is left is not rounded away, of one that is sure and wrong it is −l."""
    logits = torch.tensor([30.0, -30.0, 80.0, 200.0, -200.0, 30.0, -1e30], device=device)
    target = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0], device=device)
    nats = OP(logits, target)
    assert nats[:3].tolist() == pytest.approx([math.log1p(math.exp(-each)) for each in (30, 30, 80)], rel=1e-6)
    assert (nats[3:5].abs() < 1e-35).all()
    assert nats[5:].tolist() == [30.0, torch.tensor(1e30).item()]
    grad = BACKWARD(torch.ones_like(nats), logits, target)
    assert grad[1].item() == pytest.approx(1 / (1 + math.exp(30)), rel=1e-6)
    assert grad[5:].tolist() == [1.0, -1.0]


def test_what_is_no_number_stays_with_its_image(device: str) -> None:
    logits, target = batch(((4, 1500), ()), device=device)
    logits[1, 700], logits[2, 1499], target[2, 1499] = torch.nan, torch.inf, 0.5
    nats = OP(logits, target)
    assert nats.isfinite().tolist() == [True, False, False, True]
    assert nats[1].isnan()
    assert nats[2] == math.inf
    grad = BACKWARD(torch.ones_like(nats), logits, target)
    assert grad.isfinite().sum() == grad.numel() - 1
    assert grad[1, 700].isnan()
    assert grad[2, 1499] == 0.5


def test_bits_do_not_depend_on_threads_or_on_images_beside() -> None:
    for shape in (((40, 300), ()), ((5, 3000), ())):
        logits, target = batch(shape)

        def both(l: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            nats = OP(l, t)
            return nats, BACKWARD(torch.ones_like(nats), l, t)

        runs = [with_threads(n, lambda l=logits, t=target: both(l, t)) for n in (1, 2, 7)]  # type: ignore[misc]
        for one, two, three in zip(*runs, strict=True):
            assert torch.equal(one, two)
            assert torch.equal(one, three)
        for one, every in zip(both(logits[3:4], target[3:4]), runs[0], strict=True):
            assert torch.equal(one[0], every[3])


def test_registration(device: str) -> None:
    for shape in (((3, 40), (2,)), ((2, 3, 4, 5), ())):
        logits, target = batch(shape, device=device)
        for l in (logits, reversed_memory(logits)):
            nats = OP(l, target)
            assert_opcheck(OP, (l.clone(memory_format=torch.preserve_format).requires_grad_(), target))
            assert_opcheck(BACKWARD, (nats, l, target))
            assert_compiles([OP], lambda l, t=target: OP(l, t), l)
    assert_second_order(lambda l: OP(l, target.double()), logits.double())
    assert_no_forward_mode(lambda l: OP(l, target), logits)


def test_errors() -> None:
    logits, target = batch(((20, 3, 15, 10), ()))
    f = binary_cross_entropy
    outside, missing = target.clone(), target.clone()
    outside[7, 1, 2, 3], missing[19, 2, 14, 9] = 255.0, torch.nan
    assert_raises(
        [
            (lambda: f(logits, outside), RuntimeError, r"target: expected values in \[0, 1\], got others"),
            (lambda: f(logits, target - 1e-6), RuntimeError, r"target: expected values in \[0, 1\]"),
            (lambda: f(logits, missing), RuntimeError, r"target: expected values in \[0, 1\]"),
            (lambda: f(logits[:7], outside[:7] * 255), RuntimeError, r"target: expected values in \[0, 1\]"),
            (lambda: f(logits[:2], outside[6:8]), RuntimeError, r"target: expected values in \[0, 1\]"),
            (lambda: f(logits[:2], target[:2] - 1), RuntimeError, r"target: expected values in \[0, 1\]"),
            (lambda: f(logits[:1], missing[19:]), RuntimeError, r"target: expected values in \[0, 1\]"),
            (lambda: f(logits[:, :1], target), ValueError, r"logits: .*\(\*, 20, 3, 15, 10\), got \(20, 1, 15, 10\)"),
            (lambda: f(logits[0], target), ValueError, r"logits: expected shape .*, got \(3, 15, 10\)"),
            (lambda: f(logits, target[0, 0, 0, 0]), ValueError, r"target: expected shape \(N, \*\), got a scalar"),
            (lambda: f(logits.int(), target), TypeError, "logits: expected float32, .* got torch.int32"),
            (lambda: f(logits, target.to("meta")), ValueError, "target: expected the device of logits, cpu"),
            (lambda: OP(logits, target.double()), RuntimeError, "target: expected another dtype"),
            (lambda: OP(logits, target[0, 0, 0, 0]), RuntimeError, "target: expected shape"),
            (lambda: OP(logits[0], target), RuntimeError, "logits: expected the shape"),
            (lambda: OP(logits, target[:, :2]), RuntimeError, "target: expected another shape"),
            (lambda: BACKWARD(target, logits, target), RuntimeError, "grad: expected another shape"),
            (lambda: BACKWARD(torch.ones(20).double(), logits, target), RuntimeError, "grad: expected another dtype"),
        ]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_decoder_s_likelihood_reads_it(dtype: torch.dtype) -> None:
    """Of black and white, and of greys as probabilities; in bfloat16 without a copy in float32."""
    for levels in (2, 256):
        values, logits = torch.randint(levels, (11, 1, 28, 28)), torch.randn(11, 1, 28, 28).to(dtype).requires_grad_()
        with assert_runs(OP):
            found = likelihood("bernoulli", levels).log_prob(logits, values)
            read = found.grad_fn.next_functions[0][0].saved_tensors[0]  # type: ignore[union-attr]
            (grad,) = torch.autograd.grad(found.sum(), logits)
        exact = -plain(logits.double(), values / (levels - 1))
        assert torch.allclose(found.double(), exact, rtol=1e-6)
        assert grad.dtype == read.dtype == dtype
        samples = torch.randn(3, 11, 1, 28, 28).to(dtype)
        with ops_run() as ran:
            found = likelihood("bernoulli", levels).log_prob(samples, values)
        assert ran == {"binary_cross_entropy"}
        assert torch.allclose(found.double(), -plain(samples.double(), values / (levels - 1)), rtol=1e-6)


def test_targets_of_other_dtypes() -> None:
    logits, target = batch(((16, 784), ()))
    black = target.round()
    for t in (black.bool(), black.to(torch.int64), black.to(torch.uint8), black.half(), black.double()):
        with assert_runs(OP, backward=False):
            assert torch.equal(binary_cross_entropy(logits, t), binary_cross_entropy(logits, black))


def test_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere it is torch's, and differentiates in the target, too."""
    logits, target = torch.randn(16, NUMBERS // 16), torch.rand(16, NUMBERS // 16)
    assert pays(logits, target)
    assert not pays(logits[:, 1:], target[:, 1:])
    assert not pays(logits.to("meta"), target)
    assert not pays(logits, target.clone().requires_grad_())
    with forward_ad.dual_level():
        assert not pays(logits, target)
    seen: list[bool] = []
    torch.vmap(lambda l: (seen.append(pays(l, target)), l)[1])(logits[None])
    assert seen == [False]
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert not pays(logits, target)
    monkeypatch.undo()
    t = target.clone().requires_grad_()
    with ops_run() as ran:
        (grad,) = torch.autograd.grad(binary_cross_entropy(logits, t).sum(), t)
        small = binary_cross_entropy(logits[:, 1:].half(), target[:, 1:])
        each = torch.vmap(lambda l, t: binary_cross_entropy(l[None], t[None])[0])(logits, target)
    assert not ran
    assert torch.allclose(grad, -logits)
    assert torch.equal(small, plain(logits[:, 1:].half(), target[:, 1:]))
    assert torch.allclose(each, plain(logits, target))


@pytest.mark.parametrize("rows", [2, 64])
def test_a_program_has_it_as_one_op(rows: int) -> None:
    """Its checks would be forty names that are looked at again at each call."""
    logits, target = torch.randn(rows, 784), torch.rand(rows, 784)
    names: list[Any] = []

    def look(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        names.extend(node.target for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    torch._dynamo.reset()
    assert torch.equal(
        torch.compile(binary_cross_entropy, fullgraph=True, backend=look)(logits, target),
        binary_cross_entropy(logits, target),
    )
    assert names == [torch.ops.fastgen.checked_binary_cross_entropy.default]
    program = torch.compile(binary_cross_entropy, backend="aot_eager")
    own, theirs = (logits.clone().requires_grad_() for _ in range(2))
    for found in (program(own, target), binary_cross_entropy(theirs, target)):
        found.sum().backward()
    assert own.grad is not None
    assert theirs.grad is not None
    assert torch.equal(own.grad, theirs.grad)
    with pytest.raises(Exception, match=r"logits: expected shape \(\*, \d+, .*\), got \(\d+, 784\)"):
        program(logits, target[:, :3])
