"""Metrics of sets: closed forms, and the papers' definitions written out in loops."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from fastgen import exploring, metrics
from fastgen.metrics import neighbours
from parity import assert_parity


def gaussian(n: int, mean: Tensor, root: Tensor) -> Tensor:
    """``n`` numbers whose sample moments are exactly N(mean, root·rootᵀ)'s."""
    x = torch.randn(n, len(mean), dtype=torch.float64)
    x = x - x.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(torch.cov(x.T)), x.T, upper=False).T
    return white @ root.T + mean


def close(found: float, expected: float) -> None:
    exact = torch.tensor([expected], dtype=torch.float64)
    assert_parity(torch.tensor([found], dtype=torch.float32), exact.float(), exact)


def test_frechet_distance_of_gaussians() -> None:
    mean, root = torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([[2.0, 0, 0], [1, 1, 0], [0, 0.5, 3]]).double()
    a = gaussian(50, mean, root)
    assert metrics.frechet_distance(a, a) < 1e-9
    close(metrics.frechet_distance(a, a + torch.tensor([3.0, 0, 4])), 25.0)
    b = gaussian(30, mean, root * 3)  # (Σ·9Σ)^½ = 3Σ: Tr(Σ + 9Σ − 6Σ)
    close(metrics.frechet_distance(a, b), 4 * float((root @ root.T).trace()))
    diagonal = gaussian(40, mean, torch.diag(torch.tensor([1.0, 2, 3])).double())
    other = gaussian(40, mean + 1, torch.diag(torch.tensor([4.0, 2, 1])).double())
    close(metrics.frechet_distance(diagonal, other), 3 + 9 + 0 + 4)
    close(metrics.frechet_distance(diagonal[:, :1], other[:, :1]), 1 + 9)
    close(metrics.frechet_distance(b, other), metrics.frechet_distance(other, b))
    turned = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    close(metrics.frechet_distance(b @ turned, other @ turned), metrics.frechet_distance(b, other))


def test_kernel_distance_is_the_mean_of_its_definition() -> None:
    a, b = torch.randn(7, 3), torch.randn(5, 3) + 0.5
    found, spread = metrics.kernel_distance(a, b[:5], subsets=1, size=5, seed=3)
    generator = torch.Generator().manual_seed(3)
    x, y = (each[torch.randperm(len(each), generator=generator)[:5]].double() for each in (a, b))
    pairs = list(itertools.permutations(range(5), 2))

    def kernel(first: Tensor, second: Tensor) -> float:
        return float((first @ second / 3 + 1) ** 3)

    within = sum(kernel(x[i], x[j]) + kernel(y[i], y[j]) for i, j in pairs) / 20
    across = sum(kernel(first, second) for first, second in itertools.product(x, y)) / 25
    close(found, within - 2 * across)
    assert spread == 0
    alike = [
        metrics.kernel_distance(torch.randn(200, 4), torch.randn(200, 4), subsets=20, size=50)[0] for _ in range(3)
    ]
    mean, spread = metrics.kernel_distance(torch.randn(200, 4), torch.randn(200, 4) + 1, subsets=20, size=50)
    assert mean > 3 * max(map(abs, alike))
    assert spread > 0


def by_definition(real: Tensor, drawn: Tensor, k: int) -> tuple[float, float, float, float]:
    """Precision, recall, density and coverage, by loops."""

    def radius(among: Tensor, i: int) -> float:
        return sorted(math.dist(among[i].tolist(), other.tolist()) for j, other in enumerate(among) if j != i)[k - 1]

    def holds(among: Tensor, i: int, point: Tensor) -> bool:
        return math.dist(among[i].tolist(), point.tolist()) <= radius(among, i) + 1e-9

    N, M = len(real), len(drawn)
    precision = sum(any(holds(real, i, point) for i in range(N)) for point in drawn) / M
    recall = sum(any(holds(drawn, i, point) for i in range(M)) for point in real) / N
    density = sum(holds(real, i, point) for i in range(N) for point in drawn) / (k * M)
    coverage = sum(any(holds(real, i, point) for point in drawn) for i in range(N)) / N
    return precision, recall, density, coverage


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("block", [8192, 4])
def test_neighbours_by_their_definition(monkeypatch: pytest.MonkeyPatch, k: int, block: int) -> None:
    monkeypatch.setattr(neighbours, "BLOCK", block)
    real, drawn = torch.randn(11, 2), torch.randn(9, 2) * 0.7 + 0.3
    found = (*metrics.precision_recall(real, drawn, k), *metrics.density_coverage(real, drawn, k))
    for number, expected in zip(found, by_definition(real, drawn, k), strict=True):
        close(number, expected)
    assert metrics.precision_recall(real, real + 100, k) == (0, 0)
    assert metrics.density_coverage(real, real + 100, k) == (0, 0)
    assert metrics.precision_recall(real, real, k) == (1, 1)
    assert metrics.density_coverage(real, real, k)[1] == 1


def test_a_lost_mode_costs_recall_and_coverage_and_an_outlier_only_recall() -> None:
    torch.manual_seed(0)
    real = torch.cat([torch.randn(100, 2), torch.randn(100, 2) + 20])
    one = torch.randn(200, 2)
    precision, recall = metrics.precision_recall(real, one)
    assert precision > 0.9
    assert recall < 0.6
    assert metrics.density_coverage(real, one)[1] < 0.6
    outliers = torch.cat([one[:-3], torch.tensor([[12.0, 12], [12.5, 12.5], [13, 13]])])
    assert metrics.precision_recall(real, outliers)[1] > 0.9, "their balls reach the lost mode"
    assert metrics.density_coverage(real, outliers)[1] < 0.6


def test_nearest_is_exploring_s() -> None:
    assert exploring.nearest is metrics.nearest
    among = torch.arange(6.0).view(6, 1, 1, 1)
    indices, _ = metrics.nearest(torch.tensor([0.1, 4.6]).view(2, 1, 1, 1), among, 2)
    assert among[indices].flatten(1).tolist() == [[0, 1], [5, 4]]
    far = torch.rand(3, 1, 2, 2) + 1e6
    assert metrics.nearest(far, far)[1].max() < 1e-6, "far from zero, too"


FINE = torch.rand(6, 2)


@pytest.mark.parametrize("metric", [metrics.frechet_distance, metrics.kernel_distance])
def test_distances_name_what_does_not_fit(metric: object) -> None:
    for a, b, message in (
        (FINE[0], FINE, r"a: expected shape \(N, D\), got \(2,\)"),
        (FINE, FINE[:, :1], r"b: expected shape \(M, 2\), got \(6, 1\)"),
        (FINE, FINE * math.inf, "b: expected finite numbers, got inf or nan"),
        (FINE[:1], FINE, r"a.*: expected (more than D = 2|two) examples.*, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            metric(a, b)
    with pytest.raises(TypeError, match="a: expected a tensor"):
        metric([1.0], FINE)


@pytest.mark.parametrize("metric", [metrics.precision_recall, metrics.density_coverage])
def test_neighbours_name_what_does_not_fit(metric: object) -> None:
    for real, drawn, k, message in (
        (FINE, FINE[:, :1], 3, r"drawn: expected shape \(M, 2\), got \(6, 1\)"),
        (FINE * math.nan, FINE, 3, "real: expected finite numbers"),
        (FINE, FINE[:3], 3, "drawn: expected more than k = 3 examples, got 3"),
        (FINE, FINE, 0, "k: expected a positive integer, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            metric(real, drawn, k)


def test_clustering_error_is_that_of_the_best_matching() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2])
    assert metrics.clustering_error(labels, (labels + 1) % 3) == 0
    assert metrics.clustering_error(labels, torch.zeros(8, dtype=torch.int64)) == 5 / 8
    greedy = torch.tensor([0] * 5 + [1] * 4), torch.tensor([0, 0, 0, 1, 1, 0, 0, 0, 0])  # the largest cell is (1, 0)
    assert metrics.clustering_error(*greedy) == pytest.approx(3 / 9)
    more = torch.tensor([3, 3, 4, 0, 0, 5, 1, 1])  # of six clusters three have a class, and cost no more
    assert metrics.clustering_error(labels, more) == 2 / 8
    for found, words in ((labels[:3], r"expected shape \(8,\)"), (labels - 1, "expected integers in")):
        with pytest.raises(ValueError, match=f"clusters: {words}"):
            metrics.clustering_error(labels, found)
    with pytest.raises(TypeError, match="labels: expected an integer tensor"):
        metrics.clustering_error(labels.double(), labels)


def test_kolmogorov_smirnov_is_the_largest_difference_of_shares() -> None:
    a, b = torch.randn(37, 3), torch.randn(20, 3) + 0.5
    a[5:9, 0] = b[3, 0]  # ties
    for column, found in enumerate(metrics.kolmogorov_smirnov(a, b).tolist()):
        shares = [[(x[:, column] <= t).double().mean() for t in torch.cat([a, b])[:, column]] for x in (a, b)]
        assert found == pytest.approx(max(abs(p - q) for p, q in zip(*shares, strict=True)))
    assert metrics.kolmogorov_smirnov(a, a).tolist() == [0, 0, 0]
    assert metrics.kolmogorov_smirnov(a, b + 100).tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match=r"b: expected shape \(M, 3\)"):
        metrics.kolmogorov_smirnov(a, b[:, :2])
    with pytest.raises(ValueError, match="b: expected one example or more, got none"):
        metrics.kolmogorov_smirnov(a, b[:0])
