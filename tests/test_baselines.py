"""PCA, k-means, mixtures and kernels: what defines each of them holds."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from parity import assert_parity

pytest.importorskip("sklearn", reason="scikit-learn comes with fastgen[train]")
from fastgen.baselines import PCA, GaussianMixture, KernelDensity, KMeans


def two_clusters(n: int, *shape: int) -> Tensor:
    """Half of the points around −3, half around 3."""
    sides = torch.where(torch.arange(n) % 2 == 0, -3.0, 3.0)
    return (sides.view(-1, *[1] * len(shape)) + 0.5 * torch.randn(n, *shape)).double()


def test_pca_is_the_singular_value_decomposition() -> None:
    x = torch.randn(30, 2, 3).double()
    pca, centered = PCA(2).fit(x), (x - x.mean(0)).flatten(1)
    left = torch.linalg.svdvals(centered)[2:].square().sum()
    error = pca.squared_error(x).sum()
    assert_parity(error.float(), left.float(), left)
    assert pca.decode(pca.encode(x)).shape == x.shape
    every = PCA(6).fit(x)
    assert_parity(every.decode(every.encode(x)).float(), x.float(), x)


@pytest.mark.parametrize("shape", [(), (1,), (2,)])
def test_kmeans_finds_clusters(shape: tuple[int, ...]) -> None:
    x = two_clusters(60, *shape)
    model = KMeans(2).fit(x)
    clusters = model.assign(x)
    assert torch.equal(clusters, clusters[0] ^ (torch.arange(60) % 2))
    for cluster in range(2):
        mean = x[clusters == cluster].mean(0)
        assert_parity(model.centers[cluster].float(), mean.float(), mean)
    nearest = (x[:, None] - model.centers[None]).reshape(60, 2, -1).square().sum(2).min(1).values
    assert_parity(model.squared_error(x).float(), nearest.float(), nearest)


@pytest.mark.parametrize(
    "model", [GaussianMixture(3), KernelDensity(0.3), KernelDensity()], ids=["gmm", "kde", "kde-cv"]
)
def test_densities_integrate_to_one(model: GaussianMixture | KernelDensity) -> None:
    """On a line and in the plane; a sum over a fine grid is the integral, to float32's rounding."""
    one, ticks = torch.ones(()), torch.linspace(-9, 9, 400).double()
    model.fit(two_clusters(100))
    total = model.log_prob(ticks).exp().sum() * 18 / 399
    assert_parity(total.float(), one, one.double())
    model.fit(two_clusters(100, 2))
    points = torch.cartesian_prod(ticks[::2], ticks[::2])
    total = model.log_prob(points).exp().sum() * (2 * 18 / 399) ** 2
    assert_parity(total.float(), one, one.double())


def test_a_kernel_density_is_a_mean_of_gaussians() -> None:
    x, points = two_clusters(20, 2), torch.randn(5, 2).double()
    each = Normal(x, 0.7).log_prob(points[:, None]).sum(2)
    exact = torch.logsumexp(each, dim=1) - math.log(20)
    assert_parity(KernelDensity(0.7).fit(x).log_prob(points).float(), exact.float(), exact)


@pytest.mark.parametrize("model", [GaussianMixture(2), KernelDensity()], ids=["gmm", "kde"])
@pytest.mark.parametrize("shape", [(), (2,)])
def test_samples_look_like_the_data(model: GaussianMixture | KernelDensity, shape: tuple[int, ...]) -> None:
    x = two_clusters(2000, *shape)
    drawn = model.fit(x).sample(2000, seed=3)
    assert drawn.shape == x.shape
    assert torch.equal(drawn, model.sample(2000, seed=3))
    assert not torch.equal(drawn, model.sample(2000, seed=4))
    error = x.std() * math.sqrt(2 / 2000)
    assert (drawn.mean(0) - x.mean(0)).abs().max() < 4 * error
    near = (drawn.abs() - 3).abs() < 1.5
    assert near.double().mean() > 0.95


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: PCA(7).fit(torch.randn(9, 6)),
            "components: expected 1 to 6, the number of points and dimensions, got 7",
        ),
        (lambda: KMeans(5).fit(torch.randn(4, 2)), "clusters: expected 1 to 4, the number of points, got 5"),
        (lambda: GaussianMixture(2).fit(torch.tensor([1.0, math.nan])), "x: expected finite numbers, got some that"),
        (lambda: KMeans(2).assign(torch.randn(4, 2)), r"KMeans: expected to be fitted first: call fit\(x\)"),
        (
            lambda: KMeans(2).fit(torch.randn(4, 2)).assign(torch.randn(4)),
            r"x: expected shape \('N', 2\), .* got \(4,\)",
        ),
    ],
)
def test_errors_name_argument_expected_and_got(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
