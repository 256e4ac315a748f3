"""Where the codes of images lie: a plot of points, coloured by label."""

import colorsys
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from .._console import several
from .._extras import require
from ..pictures import save_figure
from ..pictures.sheet import class_words
from ._shared import called_by
from .latent import codes_of, importance

SIDE, DPI = 8.0, 110
"""Inches of the axes with their labels, and pixels in an inch."""
ROWS = 26
"""Classes below each other in the legend."""
MARKERS = "o^sDvPX*<>ph"
GOLDEN = (5**0.5 - 1) / 2


def draw_scatter(
    model: Any,
    values: Tensor,
    labels: Tensor | None,
    path: str | Path,
    dims: tuple[int, int] | None = None,
    names: Sequence[str] | None = None,
    *,
    of: str | None = None,
) -> tuple[int, int]:
    """Plot two dimensions of the codes of images, coloured by label, as a PNG.

    Args:
        model: with an encoder.
        values: images.
        labels: int64 (N,); None draws all in one colour.
        path: the picture to write.
        dims: the two dimensions; by default those that tell most.
        names: of the classes, by label, for the legend; their numbers by default.
        of: what to call the model in the title; its type by default.

    Returns:
        The two dimensions.
    """
    codes = codes_of(model, values, labels).cpu()
    if codes.shape[1] < 2:
        raise ValueError(f"model: expected at least 2 latent dimensions, got {codes.shape[1]}")
    if dims is None:
        order = importance(model, values, labels).argsort(descending=True).tolist()
        dims = (order[0], order[1])
    figure = require("matplotlib.figure").Figure(figsize=(SIDE, SIDE), dpi=DPI, layout="constrained")
    require("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    x, y = codes[:, dims[0]].numpy(), codes[:, dims[1]].numpy()
    size = min(40.0, max(6.0, 8000 / len(codes)))
    if labels is None:
        axes.scatter(x, y, s=size, linewidths=0)
    else:
        labels = labels.cpu()
        for label in labels.unique().tolist():
            chosen, (color, marker) = (labels == label).numpy(), look(label, int(labels.max()) + 1)
            axes.scatter(x[chosen], y[chosen], s=size, linewidths=0, color=color, marker=marker)
        _legend(figure, axes.collections, labels.unique().tolist(), names)
    axes.set(xlabel=f"z{dims[0]}", ylabel=f"z{dims[1]}")
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_title(f"Codes of {several(len(codes), 'image')}: {called_by(of, model)}", parse_math=False)
    save_figure(figure, path)
    return dims


def look(label: int, classes: int) -> tuple[Any, str]:
    """Colour and marker of a class: no two of ``classes`` have the same."""
    if classes <= 10:
        return f"C{label}", "o"
    if classes <= 20 * len(MARKERS):
        return require("matplotlib").colormaps["tab20"](label % 20), MARKERS[label // 20]
    return colorsys.hsv_to_rgb(label * GOLDEN % 1, 0.5 + label % 7 / 14, 0.5 + label % 5 / 10), MARKERS[label % 12]


def _legend(figure: Any, points: Any, labels: list[int], names: Sequence[str] | None) -> None:
    """Every class in columns right of the axes; the figure grows by as much, and the axes keep their size."""
    columns = math.ceil(len(labels) / ROWS)
    legend = figure.legend(
        points, ["x"] * len(labels), loc="outside right upper", ncols=columns, frameon=False, markerscale=1.6,
        fontsize=9, title="class", alignment="left", columnspacing=1.0,
    )  # fmt: skip
    words = class_words(names, max(labels) + 1)
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_parse_math(False)  # a name may hold a dollar
        text.set_text("\n".join(textwrap.wrap(words[label], 32)))
    figure.canvas.draw()
    box = legend.get_window_extent()
    figure.set_size_inches(SIDE + box.width / DPI + 0.2, max(SIDE, box.height / DPI + 0.2))
