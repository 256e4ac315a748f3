"""Class histograms, their divergence, inception scores and copy rates: closed forms, and definitions in loops."""

import math

import pytest
import torch

from fastgen import metrics
from fastgen.metrics import neighbours
from test_metrics import close


def test_class_histogram_and_its_divergence() -> None:
    shares = metrics.class_histogram(torch.tensor([0, 2, 2, 0, 3]), 5)
    assert shares.dtype == torch.float64
    assert shares.tolist() == [0.4, 0, 0.4, 0.2, 0]
    uniform = torch.ones(10)
    assert metrics.histogram_divergence(uniform, 7 * uniform) == 0
    close(metrics.histogram_divergence(torch.eye(10)[3], uniform), math.log(10))
    close(metrics.histogram_divergence(torch.tensor([3, 3, 0, 0]), torch.ones(4)), math.log(2))
    p, q = torch.tensor([1.0, 2, 5]), torch.tensor([4.0, 3, 1])
    close(
        metrics.histogram_divergence(p, q),
        sum(a / 8 * math.log(a / b) for a, b in zip(p.tolist(), q.tolist(), strict=True)),
    )
    assert metrics.histogram_divergence(torch.ones(2), torch.tensor([1, 0])) == math.inf
    assert metrics.histogram_divergence(torch.tensor([1, 0]), torch.ones(2)) < math.inf, "what is missing is finite"


def test_inception_score_of_known_laws() -> None:
    sure = 200 * torch.eye(5).repeat(20, 1)
    mean, spread = metrics.inception_score(sure, splits=1)
    close(mean, 5.0)
    assert spread == 0
    close(metrics.inception_score(sure[:1].repeat(30, 1))[0], 1.0)
    close(metrics.inception_score(torch.zeros(30, 7))[0], 1.0)
    logits = torch.randn(12, 3)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(4))
    scores = []
    for part in logits[order].double().split(4):
        given = part.exp() / part.exp().sum(1, keepdim=True)
        of_all = given.mean(0)
        kl = [sum(p * math.log(p / q) for p, q in zip(row.tolist(), of_all.tolist(), strict=True)) for row in given]
        scores.append(math.exp(sum(kl) / 4))
    mean, spread = metrics.inception_score(logits, splits=3, seed=4)
    close(mean, sum(scores) / 3)
    close(spread, math.sqrt(sum((score - mean) ** 2 for score in scores) / 3))


def test_copy_rate_by_its_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test, drawn = torch.randn(40, 3), torch.randn(21, 3), torch.randn(30, 3)
    drawn[:9] = train[5:14]
    far = [min(math.dist(one.tolist(), other.tolist()) for other in train) for one in test]
    near = sorted(far)[5]  # a quarter of the way from the first to the 21st
    nearer = [min(math.dist(one.tolist(), other.tolist()) for other in train) < near for one in drawn]
    assert 9 < sum(nearer) < 30
    for distances in (2**25, 50):
        monkeypatch.setattr(neighbours, "DISTANCES", distances)
        close(metrics.copy_rate(drawn, test, train, 0.25), sum(nearer) / 30)
    assert metrics.copy_rate(train, test, train) == 1
    assert metrics.copy_rate(train + 100, test, train) == 0
    same, other = torch.rand(4000, 2), torch.rand(4000, 2)
    assert 0 <= metrics.copy_rate(same, other, torch.rand(500, 2)) < 0.03


def test_neighbours_in_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    real, drawn = torch.randn(11, 2), torch.randn(9, 2)
    whole = (*metrics.precision_recall(real, drawn), *metrics.density_coverage(real, drawn))
    monkeypatch.setattr(neighbours, "DISTANCES", 1)
    assert (*metrics.precision_recall(real, drawn), *metrics.density_coverage(real, drawn)) == whole
    assert metrics.Neighbourhoods(real).of(drawn) == whole, "all four at once, each with its own k"
    with pytest.raises(ValueError, match="drawn: expected more than k = 3 examples, got 3"):
        metrics.Neighbourhoods(real).of(drawn[:3])
    with pytest.raises(ValueError, match="real: expected more than k = 5 examples, got 5"):
        metrics.Neighbourhoods(real[:5])


NONE, ONES = torch.zeros(0, dtype=torch.int64), torch.ones(4, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: metrics.class_histogram(torch.tensor([3]), 3),
            r"labels: expected integers in \[0, 3\), got .* 3 to 3",
        ),
        (lambda: metrics.class_histogram(NONE, 3), "labels: expected one or more, got none"),
        (lambda: metrics.histogram_divergence(ONES[0], ONES[:3, 0]), r"real: expected shape \(2,\), got \(3,\)"),
        (lambda: metrics.histogram_divergence(0 * ONES[0], ONES[0]), "drawn: expected counts or shares of 0"),
        (lambda: metrics.inception_score(ONES), "logits: expected 10 images or more, .*, got 4"),
        (lambda: metrics.inception_score(ONES / 0, 2), "logits: expected finite numbers, got inf or nan"),
        (lambda: metrics.copy_rate(ONES, ONES, ONES[:0]), "one example or more of each, got 4, 4, 0"),
        (lambda: metrics.copy_rate(ONES, ONES, ONES, 1.5), "quantile: expected a finite number from 0 to 1, got 1.5"),
    ],
)
def test_what_does_not_fit_is_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
