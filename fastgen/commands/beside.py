"""What stands beside an autoencoder's error: that of PCA, the best linear code of as many dimensions."""

import math
from typing import Any

from ..baselines import PCA
from ..data import Dataset
from ..measures import of
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


def remarks(metrics: list[dict[str, Any]], model: Any, train: Dataset, held_out: Dataset, loss: str) -> list[str]:
    """What a person should be told of a training that ended, and learnt nothing or came to grief."""
    seen = [record[key] for record in metrics if (key := f"held_out_{loss}") in record]
    if not seen:
        return []
    first, best, last = seen[0], min(seen), seen[-1]
    said = []
    if first > 0 and last > 1.5 * first:
        said.append(
            f"the held-out {loss} grew from {first:.4g} to {last:.4g}: a smaller lr, a longer warmup or a smaller"
            " clip may help"
        )
    if loss == "nats":
        law = of(model)["nats"]
        levels = train.levels if law.of_values else 2 if getattr(model, "likelihood", None) == "bernoulli" else 1
        coin = train.dims * math.log(levels)
        if levels > 1 and best > coin:
            said.append(f"{best:.4g} nats are more than a guess without any model needs, {coin:.4g}")
    if isinstance(model, Autoencoder):
        mean = train.values.double().mean(0) / (train.levels - 1)
        plain = (held_out.values.double() / (train.levels - 1) - mean).square().flatten(1).sum(1).mean().item()
        if best > 0.98 * plain:
            said.append(
                f"no better than the mean training image, whose squared_error is {plain:.4g}: nothing was learnt of"
                " single images; another seed, a smaller lr or another activation may help"
            )
    return said


def pca_words(found: dict[str, Any]) -> str:
    """The same for people."""
    return (
        f"PCA of {found['components']} dimensions, fitted to {found['fitted_on']:,} training images:"
        f" squared_error {found['squared_error']:.4g}"
    )
