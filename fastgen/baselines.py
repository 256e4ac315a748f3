"""What a course opens with, before any network: PCA, k-means, Gaussian mixtures and kernel densities (scikit-learn).

    PCA               x̂ = m + Σ_j z_j·v_j, the best linear code                     of the squared error
    KMeans            x̂ = the nearest of K centres                                  of the squared error
    GaussianMixture   p(x) = Σ_k π_k N(x; μ_k, Σ_k), fitted by EM                   a likelihood in nats
    KernelDensity     p(x) = 1/N Σ_n N(x; x_n, h² I), h by cross-validation         a likelihood in nats

All read tensors: points (N,) or (N, D), or whatever (N, …) is flattened to points. ``fit`` returns the model itself;
results are float64, as scikit-learn's are.
"""

import math
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ._checks import check_integer, check_number, check_numbers
from ._extras import require

Fitted = TypeVar("Fitted", bound="Baseline")


class Baseline:
    """What they share: ``fit``, and the shape of the points that it saw."""

    _kept: Any = None

    def fit(self: Fitted, x: Tensor) -> Fitted:
        """Fit to points (N, …).

        Raises:
            ValueError: they are fewer than what is fitted, or one is not finite.
        """
        points = _points(x)
        if len(points) < 2 or not points.shape[1]:
            raise ValueError(f"x: expected two points or more, of one dimension or more, got shape {tuple(x.shape)}")
        self.shape = tuple(x.shape[1:])
        self._kept = self._fitted(points)
        return self

    def _fitted(self, points: np.ndarray) -> Any:
        raise NotImplementedError

    @property
    def _model(self) -> Any:
        if self._kept is None:
            raise ValueError(f"{type(self).__name__}: expected to be fitted first: call fit(x)")
        return self._kept

    def _read(self, x: Tensor) -> np.ndarray:
        check_numbers("x", x)
        if not x.dim() or tuple(x.shape[1:]) != self.shape or not len(x):
            raise ValueError(f"x: expected shape {('N', *self.shape)}, as when it was fitted, got {tuple(x.shape)}")
        return _points(x)

    def _shaped(self, points: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(points, np.float64)).reshape(-1, *self.shape)


class PCA(Baseline):
    """Principal components: of all linear codes of a size the one that gives back the most.

    Args:
        components: dimensions of the code.
    """

    def __init__(self, components: int) -> None:
        self.components = check_integer("components", components, 1)

    def _fitted(self, points: np.ndarray) -> Any:
        _check_enough(self.components, "components", min(points.shape), "points and dimensions")
        return require("sklearn.decomposition").PCA(self.components, svd_solver="full").fit(points)

    def encode(self, x: Tensor) -> Tensor:
        """(N, …) → codes (N, components)"""
        return torch.from_numpy(self._model.transform(self._read(x)))

    def decode(self, z: Tensor) -> Tensor:
        """Codes (N, components) → (N, …)"""
        if not len(check_numbers("z", z, ("N", self.components))):
            raise ValueError(f"z: expected one code or more, got shape {tuple(z.shape)}")
        return self._shaped(self._model.inverse_transform(z.double().cpu().numpy()))

    def squared_error(self, x: Tensor) -> Tensor:
        """‖x − x̂‖² of each point, (N,)."""
        z = self.encode(x)
        return ((x.double() - self.decode(z)) ** 2).flatten(1).sum(1)


class KMeans(Baseline):
    """Clusters around centres, by Lloyd's algorithm from k-means++.

    Args:
        clusters: K.
        seed: of the centres it begins with.
    """

    def __init__(self, clusters: int, seed: int = 0) -> None:
        self.clusters, self.seed = check_integer("clusters", clusters, 1), _seed(seed)

    def _fitted(self, points: np.ndarray) -> Any:
        _check_enough(self.clusters, "clusters", len(points), "points")
        return require("sklearn.cluster").KMeans(self.clusters, n_init=4, random_state=self.seed).fit(points)

    @property
    def centers(self) -> Tensor:
        """(K, …)"""
        return self._shaped(self._model.cluster_centers_)

    def assign(self, x: Tensor) -> Tensor:
        """The nearest centre of each point, int64 (N,)."""
        return torch.from_numpy(self._model.predict(self._read(x)).astype(np.int64))

    def squared_error(self, x: Tensor) -> Tensor:
        """‖x − x̂‖² of each point and its centre, (N,)."""
        nearest = self.centers[self.assign(x)]
        return ((x.double() - nearest) ** 2).reshape(len(x), -1).sum(1)


class Density(Baseline):
    """A baseline that knows its density."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of each point, (N,) nats."""
        return torch.from_numpy(self._model.score_samples(self._read(x)))

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """Draw ``n`` points (n, …)."""
        raise NotImplementedError


class GaussianMixture(Density):
    """Gaussians with full covariances, by expectation maximisation.

    Args:
        components: K.
        seed: of the means it begins with.
    """

    def __init__(self, components: int, seed: int = 0) -> None:
        self.components, self.seed = check_integer("components", components, 1), _seed(seed)

    def _fitted(self, points: np.ndarray) -> Any:
        _check_enough(self.components, "components", len(points), "points")
        mixture = require("sklearn.mixture").GaussianMixture
        return mixture(self.components, n_init=2, reg_covar=1e-6, random_state=self.seed).fit(points)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        random = np.random.RandomState(_seed(seed))
        chosen = random.choice(self.components, size=_count(n), p=self._model.weights_)
        roots = np.linalg.cholesky(self._model.covariances_)
        noise = random.standard_normal((n, self._model.means_.shape[1]))
        return self._shaped(self._model.means_[chosen] + np.einsum("nij,nj->ni", roots[chosen], noise))


class KernelDensity(Density):
    """A Gaussian around every point that was seen.

    Args:
        bandwidth: h, standard deviation of the Gaussians; by default the best of a grid by five-fold cross-validation,
            in units of the points' spread.
    """

    def __init__(self, bandwidth: float | None = None) -> None:
        self.bandwidth = None if bandwidth is None else check_number("bandwidth", bandwidth, 1e-9)

    def _fitted(self, points: np.ndarray) -> Any:
        kernel = require("sklearn.neighbors").KernelDensity
        if self.bandwidth is not None:
            return kernel(bandwidth=self.bandwidth).fit(points)
        _check_enough(5, "folds", len(points), "points")
        grid = {"bandwidth": np.geomspace(0.02, 1, 12) * points.std()}
        few = points[np.random.RandomState(0).permutation(len(points))[:1000]]
        folds = require("sklearn.model_selection").GridSearchCV(kernel(), grid, cv=5).fit(few)
        shrink = (len(few) / len(points)) ** (1 / (points.shape[1] + 4))  # Scott's rule: more points, narrower kernels
        return kernel(bandwidth=folds.best_params_["bandwidth"] * shrink).fit(points)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        return self._shaped(self._model.sample(_count(n), random_state=_seed(seed)))


def _seed(seed: int) -> int:
    """As NumPy takes it."""
    return check_integer("seed", seed, 0, 2**32 - 1)


def _count(n: int) -> int:
    return check_integer("n", n, 1, 2**31 - 1)


def _points(x: Tensor) -> np.ndarray:
    check_numbers("x", x)
    if not x.dim():
        raise ValueError("x: expected points (N, …), got one number")
    points = x.detach().cpu().double().reshape(len(x), math.prod(x.shape[1:])).numpy()
    if not np.isfinite(points).all():
        raise ValueError("x: expected finite numbers, got some that are not")
    return points


def _check_enough(wanted: int, name: str, there: int, what: str) -> None:
    if not 1 <= wanted <= there:
        raise ValueError(f"{name}: expected 1 to {there}, the number of {what}, got {wanted!r}")
