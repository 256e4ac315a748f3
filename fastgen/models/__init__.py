"""Complete models, one file each, with the paper at the top."""

from typing import Any

from .autoregressive import AutoregressiveModel
from .gated_pixelcnn import GatedPixelCNN
from .pixelcnn import PixelCNN

__all__ = ["NAMES", "AutoregressiveModel", "GatedPixelCNN", "PixelCNN", "build"]

#: The name of every model, as the command line has it.
NAMES: dict[str, type[AutoregressiveModel]] = {"pixelcnn": PixelCNN, "gated-pixelcnn": GatedPixelCNN}


def build(name: str, **config: Any) -> AutoregressiveModel:
    """The model called ``name``, with its constructor's arguments; a missing one has the paper's value.

    Raises:
        ValueError: no model is called so, or an argument's value does not fit.
        TypeError: the model has no such argument.
    """
    if name not in NAMES:
        raise ValueError(f"name: expected one of {', '.join(map(repr, NAMES))}, got {name!r}")
    return NAMES[name](**config)
