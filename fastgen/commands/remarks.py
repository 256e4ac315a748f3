"""What a person should be told of a training that ended."""

import math
from typing import Any

from ..data import Dataset
from ..measures import of
from ..models import Autoencoder


def remarks(metrics: list[dict[str, Any]], model: Any, train: Dataset, held_out: Dataset, loss: str) -> list[str]:
    """That it learnt nothing, or came to grief; nothing where it went well."""
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
        total = sum(part.double().sum(0) for part in train.values.split(4096))  # not all of them in eight bytes a value
        mean = total / (len(train) * (train.levels - 1))
        plain = (held_out.values.double() / (train.levels - 1) - mean).square().flatten(1).sum(1).mean().item()
        if best > 0.98 * plain:
            said.append(
                f"no better than the mean training image, whose squared_error is {plain:.4g}: nothing was learnt of"
                " single images; another seed, a smaller lr or another activation may help"
            )
    return said
