"""rsample_kl whose op draws the seed itself, of two tensors or of one that holds both as halves."""

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fastgen.nn import GaussianRSample
from fastgen.ops import rsample_kl
from fastgen.ops.rsample_kl import (
    rsample_kl_drawn_reference,
    rsample_kl_halves_backward_reference,
    rsample_kl_halves_reference,
)
from ops import assert_op_parity, assert_opcheck, assert_raises, assert_runs, assert_second_order, exact
from parity import DTYPES, LAYOUTS, assert_parity

DRAWN = torch.ops.fastgen.rsample_kl_drawn.default
HALVES = torch.ops.fastgen.rsample_kl_halves.default
HALVES_BACKWARD = torch.ops.fastgen.rsample_kl_halves_backward.default
BACKWARD = torch.ops.fastgen.rsample_kl_backward.default
SHAPES = ((0, 6), (3, 0), (1, 40), (128, 40), (3, 2), (5, 14, 3), (2, 8198), (3, 2042), (2, 16, 8, 8), (400, 30))


def seeded(function, *args):
    torch.manual_seed(3)
    return function(*args)


def drawn_seed() -> Tensor:
    """What torch's generator gives next, and what rsample_kl was given before it drew itself."""
    return torch.randint(-(2**63), 2**63 - 1, (1,))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_drawn_is_rsample_kl_of_the_generators_seed(shape: tuple[int, ...], layout, dtype: torch.dtype) -> None:
    h = layout(torch.randn(shape, dtype=dtype)).requires_grad_()
    sample = GaussianRSample()

    def run(drawn):
        """Results, gradients and the generator's state afterwards."""
        z, kl = seeded(drawn)
        state = torch.get_rng_state()
        upstream = [torch.randn(each.shape, dtype=each.dtype) for each in (z, kl)]
        return z, kl, *torch.autograd.grad((z, kl), h, upstream), state

    with assert_runs(HALVES):
        results = [run(lambda: sample(h))]
    with assert_runs(DRAWN, torch.ops.fastgen.rsample_kl.default, backward=False):
        results.append(run(lambda: sample(*h.chunk(2, dim=1))))
        results.append(run(lambda: rsample_kl(*(each.contiguous() for each in h.chunk(2, dim=1)), drawn_seed())))
    for same in zip(*results, strict=True):
        assert all(torch.equal(each, same[-1]) for each in same)
        assert all(each.dtype == same[-1].dtype for each in same)


@pytest.mark.parametrize("dtype", DTYPES)
def test_parity(dtype: torch.dtype) -> None:
    h = torch.randn(37, 22, dtype=dtype)
    mu, logvar = h.chunk(2, dim=1)
    for op, reference, args in (
        (HALVES, rsample_kl_halves_reference, (h, 0)),
        (DRAWN, rsample_kl_drawn_reference, (mu, logvar, 0)),
    ):
        (*ours, seed), (*plain, same) = seeded(op, *args), seeded(reference, *args)
        wide = seeded(reference, *exact(args))
        assert torch.equal(seed, same)
        for one, two, truth in zip(ours, plain, wide[:2], strict=True):
            assert_parity(one, two, truth)
    grad_z, grad_kl = torch.randn_like(mu), torch.randn(37, dtype=ours[1].dtype)
    assert_op_parity(HALVES_BACKWARD, rsample_kl_halves_backward_reference, grad_z, grad_kl, h, seed)


@pytest.mark.parametrize("length", [3, 1500])
def test_rows_are_read_where_they_are(length: int) -> None:
    """Whatever lies between them, in front of them, or where all are the same."""
    wide = torch.randn(6, 2 * length + 5)
    for mu in (wide[:, 2 : 2 + length], wide[::2, :length].repeat_interleave(2, 0), wide[:1, :length].expand(6, -1)):
        for logvar in (wide[:, -length:], torch.randn(length, 6).T):
            results = [rsample_kl(*given, 5) for given in ((mu, logvar), (mu.contiguous(), logvar.contiguous()))]
            assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))
            grads = [
                BACKWARD(mu.contiguous(), torch.ones(6), *given, torch.tensor([5]))
                for given in ((mu, logvar), (mu.contiguous(), logvar.contiguous()))
            ]
            assert all(torch.equal(one, two) for one, two in zip(*grads, strict=True))


def test_opcheck() -> None:
    h = torch.randn(4, 6)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")  # each call draws anew
    for op, args in ((HALVES, (h,)), (DRAWN, h.chunk(2, dim=1))):
        torch.library.opcheck(op, (*(each.detach().requires_grad_() for each in args), 0), test_utils=checks)
        assert torch.Tag.nondeterministic_seeded in op.tags
    assert_opcheck(HALVES_BACKWARD, (torch.randn(4, 3), torch.randn(4), h, torch.tensor([3])))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_each_call_of_a_program_draws_anew(backend: str) -> None:
    """Two of the same tensor are two samples, which gradients know, and those that eager code draws."""
    sample = GaussianRSample()

    def twice(h: Tensor) -> tuple[Tensor, Tensor]:
        (one, kl), (two, _) = sample(h), sample(h)
        (three, _), (four, _) = sample(*h.chunk(2, dim=1)), sample(*h.chunk(2, dim=1))
        return torch.stack([one, two, three, four]), kl

    torch._dynamo.reset()
    program, h = torch.compile(twice, backend=backend, fullgraph=True), torch.randn(5, 8, requires_grad=True)
    results = []
    for run in (program, twice):
        z, kl = seeded(run, h)
        results.append((z, kl, *torch.autograd.grad(z.square().sum() + kl.sum(), h), torch.get_rng_state()))
        assert len({tuple(each.flatten().tolist()) for each in z}) == 4
        assert not torch.equal(run(h)[0], z)
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two)
    with torch.no_grad():
        assert torch.equal(seeded(program, h)[0], seeded(twice, h)[0])


@pytest.mark.parametrize("compiles", [False, True])
def test_a_checkpoint_draws_the_same_again(compiles: bool) -> None:
    sample, h = GaussianRSample(), torch.randn(5, 8, requires_grad=True)

    def run(h: Tensor) -> Tensor:
        return sample(h)[0].sin().square().sum()

    def kept(h: Tensor) -> Tensor:
        return checkpoint(run, h, use_reentrant=False)

    torch._dynamo.reset()
    program = torch.compile(kept, backend="aot_eager", fullgraph=True) if compiles else kept
    grads = [torch.autograd.grad(seeded(each, h), h)[0] for each in (run, program)]
    assert torch.equal(*grads)


def test_transforms_say_how_random_they_are() -> None:
    sample, h = GaussianRSample(), torch.zeros(4, 5, 6)
    for given in ((h,), h.chunk(2, dim=2)):
        run = torch.vmap(lambda *each: sample(*each)[0], randomness="different")
        z = run(*given)
        assert z.shape == (4, 5, 3)
        assert len({tuple(each.flatten().tolist()) for each in z}) == 4
        with pytest.raises(RuntimeError, match="randomness"):
            torch.vmap(lambda *each: sample(*each)[0])(*given)


def test_a_program_for_others_has_the_seed_as_a_node() -> None:
    exported = torch.export.export(GaussianRSample(), (torch.randn(3, 4),))
    names = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
    assert any("randint" in name for name in names), names
    assert not any("drawn" in name or "halves" in name for name in names), names


def test_a_generator_of_ones_own() -> None:
    sample, h = GaussianRSample(), torch.randn(3, 4)
    results = [sample(*given, generator=torch.Generator().manual_seed(5)) for given in ((h,), h.chunk(2, dim=1))]
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


def test_second_order() -> None:
    seeds = [seeded(drawn_seed)]
    for sample in (lambda h: HALVES_BACKWARD(h[:, :2], h[:, 0], h, seeds[0]),):
        assert_second_order(lambda h, sample=sample: sample(h), torch.randn(3, 4, dtype=torch.float64))
    h = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    for run in (lambda: GaussianRSample()(h), lambda: GaussianRSample()(*h.chunk(2, dim=1))):
        (first,) = torch.autograd.grad(seeded(run)[0].square().sum(), h, create_graph=True)
        z, _ = rsample_kl(*h.chunk(2, dim=1), seeds[0])
        (plain,) = torch.autograd.grad(z.square().sum(), h, create_graph=True)
        (second,), (expected,) = (torch.autograd.grad(each.square().sum(), h) for each in (first, plain))
        torch.testing.assert_close(second, expected)


def test_errors() -> None:
    sample, x = GaussianRSample(), torch.randn(2, 3)
    assert_raises(
        [
            (lambda: sample(x), ValueError, r"mu: expected shape \(N, 2D, \*\) without logvar, got \(2, 3\)"),
            (lambda: sample(x[0]), ValueError, r"mu: expected shape \(N, 2D, \*\) without logvar, got \(3,\)"),
            (lambda: sample(x.int()), TypeError, "mu: expected float32, .* got torch.int32"),
            (lambda: sample(x, x[:, :2]), ValueError, r"logvar: expected the shape of mu, \(2, 3\), got \(2, 2\)"),
            (lambda: HALVES(x, 0), RuntimeError, r"h: expected shape \(N, 2D, \*\)"),
            (lambda: HALVES_BACKWARD(x, x[:, 0], x, drawn_seed()), RuntimeError, r"h: expected shape \(N, 2D, \*\)"),
            (
                lambda: HALVES_BACKWARD(x, x[:, 0], x[:, :2], drawn_seed()),
                RuntimeError,
                "grad_z: expected another shape",
            ),
        ]
    )
