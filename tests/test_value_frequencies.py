"""value_frequencies: what a range coder takes probabilities to be, the same integers whoever computes them."""

import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

import fastgen
from fastgen.distributions import Bernoulli, Categorical, DiscretizedLogisticMixture, Distribution
from fastgen.ops.value_frequencies import TOTAL, value_frequencies, value_frequencies_reference
from ops import assert_opcheck, assert_runs, with_threads

OP = torch.ops.fastgen.value_frequencies.default
LEVELS = (2, 3, 17, 256, 1031)
SCALES = (0.1, 3.0, 100.0, 1e4, 1e30)
K = 3


def mixture(N: int, C: int, levels: int, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    """Parameters, and values of which some are the first or the last: their bins reach to infinity."""
    values = torch.randint(levels, (N, C))
    values[: N // 4], values[N // 4 : N // 2] = 0, levels - 1
    return torch.randn(N, (10 if C == 3 else 3) * K) * scale, values


def assert_same(params: Tensor, levels: int, values: Tensor | None = None, color: int = 0, components: int = 0) -> None:
    found = OP(params, values, color, levels, components)
    assert torch.equal(found, value_frequencies_reference(params, values, color, levels, components))
    assert int(found.min(dim=1).values.min() if len(found) else 1) >= 1
    assert (found.sum(1) == TOTAL).all()
    assert found.dtype == torch.int32
    assert found.is_contiguous()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("N", [0, 1, 37])
def test_compiled_code_and_the_reference_answer_with_the_same_integers(N: int, scale: float) -> None:
    assert_same(torch.randn(N, 1) * scale, 2)
    for levels in LEVELS:
        logits = torch.randn(N, levels) * scale
        assert_same(logits, levels)
        assert_same(logits.t().contiguous().t(), levels)
        for C, color in ((1, 0), (3, 0), (3, 1), (3, 2)):
            params, values = mixture(N, C, levels, scale)
            assert_same(params, levels, values, color, K)
            assert_same(params.t().contiguous().t(), levels, values.t().contiguous().t(), color, K)


def test_half_a_million_numbers_are_the_same() -> None:
    """Of other digits, a few of them would be others."""
    assert_same(torch.randn(2000, 256) * 4, 256)
    params, values = mixture(1000, 3, 256, 1.5)
    assert_same(params, 256, values, 2, K)


@pytest.mark.skipif(None in map(shutil.which, ("nm", "objdump")), reason="needs binutils")
def test_no_product_is_joined_with_a_sum() -> None:
    """That is one rounding in place of two: so rare another integer that no numbers would show it."""
    library = Path(fastgen.__file__).parent / "_core.so"
    listing = subprocess.run(["nm", library], capture_output=True, text=True, check=True).stdout
    names = re.findall(r" [tT] (\S*(?:add_below_edges|categorical_weights|mixture_frequencies)\S*)$", listing, re.M)
    for name in names:
        command = ["objdump", "-d", "--no-show-raw-insn", f"--disassemble={name}", library]
        code = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert "mul" in code or "resolver" in name
        assert re.findall(r"\bvfn?m\w+|\bfn?m(?:add|la|sub|ls)\b", code) == []


def log_prob(law: Distribution, params: Tensor, values: Tensor) -> Tensor:
    """Of rows, in double: (N, C) or (N, 1)"""
    return law.log_prob(params.double()[:, :, None, None], values[:, :, None, None])[:, :, 0, 0]


def test_no_value_costs_more_than_its_probability_says() -> None:
    """So log f − log 2²⁴ > log P − L / (2²⁴ − L), for likely and unlikely values; in all, a law is hardly off."""
    for levels in (2, 5, 256):
        laws: list[tuple[Distribution, Tensor]] = [(Categorical(levels), torch.randn(300, levels) * 2)]
        laws += [(Bernoulli(), torch.randn(300, 1) * 5)] * (levels == 2)
        for law, params in laws:
            p = torch.stack([log_prob(law, params, torch.full((300, 1), v))[:, 0] for v in range(levels)], 1)
            f = value_frequencies(params, levels).double()
            assert ((f / TOTAL).log() > p - 1.001 * levels / (TOTAL - levels)).all()
            assert ((f / TOTAL - p.exp()).abs() < 3 / TOTAL + p.exp() * levels / TOTAL).all()


def test_a_mixture_s_colours_multiply_to_its_likelihood() -> None:
    for C in (1, 3):
        for levels in (2, 17, 256):
            params, values = mixture(400, C, levels, 1.5)
            f = [value_frequencies(params, levels, values, k, K).gather(1, values[:, k : k + 1]) for k in range(C)]
            found = sum((each.double() / TOTAL).log() for each in f)
            exact = log_prob(DiscretizedLogisticMixture(K, levels), params, values)
            assert (found > exact - C * 1.001 * levels / (TOTAL - levels)).all()
            likely = exact > math.log(1e-3)  # others are dearer by rounding than they are worth
            assert (found < exact + 0.01)[likely].all()


def test_a_colour_reads_those_before_it_alone() -> None:
    params, values = mixture(50, 3, 256, 1.0)
    for k in range(3):
        other = values.clone()
        other[:, k:] = 255 - other[:, k:]
        found = value_frequencies(params, 256, values, k, K)
        assert torch.equal(found, value_frequencies(params, 256, other, k, K))
        other[:, :k] = (other[:, :k] + 90) % 256
        assert torch.equal(found, value_frequencies(params, 256, other, k, K)) == (k == 0)


def test_a_row_depends_on_nothing_else() -> None:
    params, values = mixture(300, 3, 256)
    logits = torch.randn(300, 256)
    for threads in (1, 2):
        of_mixtures = with_threads(threads, lambda: value_frequencies(params, 256, values, 1, K))
        of_logits = with_threads(threads, lambda: value_frequencies(logits, 256))
        for i in (0, 7, 299):
            one = slice(i, i + 1)
            assert torch.equal(value_frequencies(params[one], 256, values[one], 1, K), of_mixtures[one])
            assert torch.equal(value_frequencies(logits[one], 256), of_logits[one])


def test_what_is_no_number_gives_frequencies_all_the_same() -> None:
    for bad in (math.nan, math.inf, -math.inf):
        for params, args in (
            (torch.full((2, 1), bad), (None, 0, 2, 0)),
            (torch.full((2, 9), bad), (None, 0, 9, 0)),
            (torch.full((2, 30), bad), (torch.tensor([[0, 1, 8]] * 2), 2, 9, 3)),
        ):
            found = OP(params, *args)
            assert (found.sum(1) == TOTAL).all()
            assert (found >= 1).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_parameter_that_is_no_number_is_so_for_compiled_code_and_the_reference(bad: float) -> None:
    """Wherever it stands in a row: the first of them, or behind larger ones."""
    assert_same(torch.tensor([[bad]]), 2)
    for levels in (2, 3, 17, 256):
        assert_same(torch.randn(levels, levels).masked_fill(torch.eye(levels).bool(), bad), levels)
    for C in (1, 3):
        params, values = mixture((10 if C == 3 else 3) * K, C, 17)
        params = params.masked_fill(torch.eye(len(params)).bool(), bad)
        for color in range(C):
            assert_same(params, 17, values, color, K)


def test_torch_knows_it() -> None:
    params, values = mixture(5, 3, 17)
    assert_opcheck(OP, (params, values, 1, 17, K))
    assert_opcheck(OP, (torch.randn(17, 5).t(), None, 0, 17, 0))
    logits = torch.randn(5, 17)
    compiled = torch.compile(lambda params: value_frequencies(params, 17) - 1, fullgraph=True, backend="aot_eager")
    with assert_runs(OP):
        assert torch.equal(compiled(logits), value_frequencies(logits, 17) - 1)
    assert not value_frequencies(torch.randn(2, 17, requires_grad=True), 17).requires_grad


def test_what_does_not_fit_is_refused() -> None:
    params, values = mixture(4, 3, 17)
    for message, call in {
        "levels: expected an integer from 2 to 65536, got 1": lambda: value_frequencies(params[:, :1], 1),
        r"params: expected shape \(N, P\)": lambda: value_frequencies(params[0], 17),
        "params: expected 17 logits in a row, got 30": lambda: value_frequencies(params, 17),
        "params: expected 2 logits or 1 in a row, got 30": lambda: value_frequencies(params, 2),
        r"params: expected 3·4 of 1, 10·4 of 3 colours, got 30 for 3": lambda: value_frequencies(
            params, 17, values, 0, 4
        ),
        r"values: expected shape \(4, C\)": lambda: value_frequencies(params, 17, values[:2], 0, K),
        r"color: expected .*, got 3": lambda: value_frequencies(params, 17, values, 3, K),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match=r"params: expected float32, got torch\.float64"):
        value_frequencies(params.double(), 17, values, 0, K)
    for message, args in {
        "levels: expected 2 to 65,536": (params, None, 0, 1, 0),
        "params: expected shape": (params[0], None, 0, 17, 0),
        "params: expected another dtype": (params.double(), values, 0, 17, K),
        "params: expected a logit of each level": (params, None, 0, 17, 0),
        "params: expected those of the components": (params, values, 0, 17, 2),
        "values: expected those of the pixel": (params, None, 0, 17, K),
        "values: expected 1 or 3 colours": (params, values[:, :2], 0, 17, K),
        "values: expected another shape": (params, values[:2], 0, 17, K),
        "values: expected another dtype": (params, values.int(), 0, 17, K),
        "color: expected one of the pixel's, got 3": (params, values, 3, 17, K),
        "components: expected 0 or more": (params, values, 0, 17, -1),
    }.items():
        with pytest.raises(RuntimeError, match=message):
            OP(*args)
