"""What stands beside an autoencoder's error: that of PCA, the best linear code of as many dimensions."""

from typing import Any

from .._console import several
from ..baselines import PCA
from ..data import Dataset
from ..models import Autoencoder

MOST = 5 * 10**7
"""Values that PCA is fitted to: all of MNIST; of larger sets as many images as have so many."""


def fitted_pca(model: Any, train: Dataset) -> tuple[PCA, int] | None:
    """PCA that an autoencoder can equal, and how many images of ``train``, with values in [0, 1], it is fitted to.

    None for other models, and where there are too few images.
    """
    fitted = train.subset(min(len(train), max(2, MOST // train.dims)))
    if not isinstance(model, Autoencoder) or model.latent > min(len(fitted), train.dims):
        return None
    return PCA(model.latent).fit(fitted.values.double() / (model.levels - 1)), len(fitted)


def pca_squared_error(model: Any, train: Dataset, images: Dataset) -> dict[str, Any] | None:
    """PCA's mean squared error of ``images``, on values in [0, 1], where the model is an autoencoder that it can equal.

    Returns:
        {"components", "squared_error", "fitted_on"}; None for other models, and where there are too few images.
    """
    found = fitted_pca(model, train)
    if found is None:
        return None
    pca, fitted_on = found
    error = pca.squared_error(images.values.double() / (model.levels - 1)).mean().item()
    return {"components": model.latent, "squared_error": error, "fitted_on": fitted_on}


def pca_words(found: dict[str, Any]) -> str:
    """The same for people."""
    return (
        f"PCA of {several(found['components'], 'dimension')}, fitted to"
        f" {several(found['fitted_on'], 'training image')}: squared_error {found['squared_error']:.4g}"
    )
