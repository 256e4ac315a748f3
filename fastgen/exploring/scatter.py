"""Where the codes of images lie: a plot of points, coloured by label."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from .._extras import require
from .._files import check_suffix, write_atomic
from .latent import codes_of, importance


def draw_scatter(
    model: Any,
    values: Tensor,
    labels: Tensor | None,
    path: str | Path,
    dims: tuple[int, int] | None = None,
    names: Sequence[str] | None = None,
) -> tuple[int, int]:
    """Plot two dimensions of the codes of images, coloured by label, as a PNG.

    Args:
        model: with an encoder.
        values: images.
        labels: int64 (N,); None draws all in one colour.
        path: the picture to write.
        dims: the two dimensions; by default those that tell most.
        names: of the classes, by label, for the legend; their numbers by default.

    Returns:
        The two dimensions.
    """
    codes = codes_of(model, values, labels).cpu()
    if codes.shape[1] < 2:
        raise ValueError(f"model: expected at least 2 latent dimensions, got {codes.shape[1]}")
    if dims is None:
        order = importance(model, values, labels).argsort(descending=True).tolist()
        dims = (order[0], order[1])
    figure = require("matplotlib.figure").Figure(figsize=(6, 6), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    x, y = codes[:, dims[0]].numpy(), codes[:, dims[1]].numpy()
    if labels is None:
        axes.scatter(x, y, s=4, linewidths=0)
    else:
        for label in labels.unique().tolist():
            chosen, name = (labels == label).numpy(), str(label) if names is None else names[label].lstrip("_")
            axes.scatter(x[chosen], y[chosen], s=5, linewidths=0, label=name, color=f"C{label % 10}")
        axes.legend(markerscale=3, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set(xlabel=f"z{dims[0]}", ylabel=f"z{dims[1]}", aspect="equal")
    save_figure(figure, path)
    return dims


def save_figure(figure: Any, path: str | Path) -> None:
    """Write a matplotlib figure as PNG; ``path`` is the old file or the new one, never a part.

    Raises:
        ValueError: ``path`` is named as another kind of file.
    """
    path = Path(path)
    check_suffix("path", path, (".png",))
    require("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomic(path, buffer.getvalue())
