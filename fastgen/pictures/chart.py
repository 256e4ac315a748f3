"""Line charts of a run's metrics: laid out once, as lines and text, and drawn as SVG or as pixels."""

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

import numpy as np

from .page import FAINT, INK, Page, wrap

WIDTH, HEIGHT = 480, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 32, 40
PRINT, LINE, LETTERS = 10, 13, 68
"""Size of small print, the height of its lines, and letters in one."""
HEAD = 18
"""Size of the title above all charts."""
COLORS = ((31, 105, 180), (214, 92, 30), (44, 140, 80), (140, 80, 170))
GRID = (222, 224, 228)


TOGETHER: dict[str, dict[str, tuple[str, ...]]] = {
    "losses of the players": {
        player: (f"train_{player}_game", f"train_{player}_loss") for player in ("discriminator", "generator")
    },
    "share that D tells right": {
        "real": ("train_discriminator_accuracy_on_real",),
        "drawn": ("train_discriminator_accuracy_on_fake",),
    },
    "gradient norms": {player: (f"train_{player}_gradient_norm",) for player in ("discriminator", "generator")},
}
"""Of a game: what one chart has the lines of, each with its entries of a record, the first that there is."""


@dataclass(frozen=True)
class Chart:
    """A chart of lines over epochs, each (x, y) pairs; pairs that are not finite are left out.

    ``note`` and ``images`` say in small print what is drawn, and of which images.
    """

    title: str
    lines: dict[str, list[tuple[float, float]]]
    note: str = ""
    images: str = ""


class Stroke(NamedTuple):
    """A line through points."""

    points: list[tuple[float, float]]
    color: tuple[int, int, int]
    width: float


class Label(NamedTuple):
    """Text with its baseline at a point: anchored at its start, middle or end."""

    x: float
    y: float
    text: str
    anchor: str
    size: int
    color: tuple[int, int, int]


def charts(metrics: Sequence[dict[str, Any]], about: dict[str, str] | None = None) -> list[Chart]:
    """A chart for every measured quantity in the lines of metrics.jsonl, what was minimised first.

    ``about``: what each quantity is, by name, and which images were "held_out".
    """
    about = about or {}
    games, taken = _of_players(metrics)
    names: dict[str, None] = {}
    for record in metrics:
        for key in record:
            if key in taken:
                continue
            side = next((side for side in ("held_out_", "train_") if key.startswith(side)), None)
            is_error = key.endswith("_error") and key.removesuffix("_error") in record  # "squared_error" is a loss
            if side and not is_error and not key.endswith("_seconds"):
                names[key.removeprefix(side)] = None
    order = sorted(names, key=lambda name: not any(f"held_out_{name}_error" in record for record in metrics))
    found = []
    for name in order:
        lines = {}
        for side, label in (("train_", "train"), ("held_out_", "held out")):
            pairs = [(record["epoch"], record.get(side + name)) for record in metrics]
            lines[label] = [(x, y) for x, y in pairs if y is not None and math.isfinite(y)]
        there = {label: pairs for label, pairs in lines.items() if pairs}
        images = f"held out: {about['held_out']}" if "held_out" in about else ""
        found.append(Chart(_title(name), there, about.get("nats" if name == "bits_per_dim" else name, ""), images))
    return [chart for chart in [*games, *found] if chart.lines]


def _of_players(metrics: Sequence[dict[str, Any]]) -> tuple[list[Chart], set[str]]:
    """The charts of a game, and the entries that need no other; of a run that is none, nothing."""
    charts, taken = [], set()
    for title, parts in TOGETHER.items():
        lines = {}
        for label, keys in parts.items():
            pairs = [(record["epoch"], next((record[k] for k in keys if k in record), None)) for record in metrics]
            lines[label] = [(x, y) for x, y in pairs if y is not None and math.isfinite(y)]
        if all(lines.values()):
            charts.append(Chart(title, lines))
            taken |= {key for keys in parts.values() for key in keys}
    return charts, taken


def svg(chart: Chart) -> str:
    """The chart as an ``<svg>`` element, its text in the surrounding font."""
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(chart.title)}">']
    for mark in _layout(chart):
        color = "#{:02x}{:02x}{:02x}".format(*mark.color)
        if isinstance(mark, Stroke):
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in mark.points)
            parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="{mark.width}"/>')
        else:
            at = f'x="{mark.x:.1f}" y="{mark.y:.1f}" text-anchor="{mark.anchor}" font-size="{mark.size}"'
            parts.append(f'<text {at} fill="{color}">{escape(mark.text)}</text>')
    return "".join([*parts, "</svg>"])


def pixels(drawn: Sequence[Chart], columns: int = 2, scale: int = 2, title: str = "") -> np.ndarray:
    """Charts in rows of ``columns`` under a title, as 8-bit colours (height, width, 3)."""
    columns = min(columns, len(drawn))
    lines = wrap(title, HEAD * scale, (columns * WIDTH - 32) * scale)
    head = 8 + (HEAD + 6) * len(lines) if lines else 0
    page = Page(columns * WIDTH * scale, (-(-len(drawn) // columns) * HEIGHT + head) * scale)
    for line, text in enumerate(lines):
        page.text(16 * scale, (8 + (HEAD + 6) * line) * scale, text, HEAD * scale)
    for index, chart in enumerate(drawn):
        left, top = index % columns * WIDTH, index // columns * HEIGHT + head
        for mark in _layout(chart):
            if isinstance(mark, Stroke):
                points = [((x + left) * scale, (y + top) * scale) for x, y in mark.points]
                page.path(points, mark.color, max(1, round(mark.width * scale)))
            else:
                anchor = {"start": "ls", "middle": "ms", "end": "rs"}[mark.anchor]
                x, y = round((mark.x + left) * scale), round((mark.y + top) * scale)
                page.text(x, y, mark.text, mark.size * scale, mark.color, anchor)
    return page.pixels()


def _title(name: str) -> str:
    units = {"nats": "nats per image", "bits_per_dim": "bits per dimension"}
    return units.get(name, name.replace("_", " "))


def _layout(chart: Chart) -> Iterator[Stroke | Label]:
    every = [pair for pairs in chart.lines.values() for pair in pairs]
    x_ticks = _ticks(min(x for x, _ in every), max(x for x, _ in every), 6, whole=True)
    y_ticks = _ticks(min(y for _, y in every), max(y for _, y in every), 5)
    x_range = min(x for x, _ in every), max(max(x for x, _ in every), min(x for x, _ in every) + 1)
    said, whose = textwrap.wrap(chart.note, LETTERS), textwrap.wrap(chart.images, LETTERS + 6)
    top, bottom = TOP + LINE * len(said), HEIGHT - BOTTOM - LINE * len(whose)
    y_range = min(y_ticks[0], *(y for _, y in every)), max(y_ticks[-1], *(y for _, y in every))

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - x_range[0]) / (x_range[1] - x_range[0])
        up = (y - y_range[0]) / (y_range[1] - y_range[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), bottom - up * (bottom - top)

    yield Label(LEFT, 20, chart.title, "start", 15, INK)
    for line, text in enumerate(said):
        yield Label(LEFT, TOP + 3 + LINE * line, text, "start", PRINT, FAINT)
    for line, text in enumerate(whose):
        yield Label(8, bottom + BOTTOM + 5 + LINE * line, text, "start", PRINT, FAINT)
    for tick in y_ticks:
        _, y = at(x_range[0], tick)
        yield Stroke([(LEFT, y), (WIDTH - RIGHT, y)], GRID, 1)
        yield Label(LEFT - 8, y + 4, _tick(tick, y_ticks), "end", 12, FAINT)
    for tick in x_ticks:
        if x_range[0] <= tick <= x_range[1]:
            yield Label(at(tick, y_range[0])[0], bottom + 16, f"{tick:.0f}", "middle", 12, FAINT)
    yield Label(WIDTH - RIGHT, bottom + 31, "epoch", "end", 12, FAINT)
    for index, (name, pairs) in enumerate(chart.lines.items()):
        color = COLORS[index % len(COLORS)]
        points = [at(x, y) for x, y in pairs]
        if len(points) == 1:  # a line needs two ends to be seen
            points = [(points[0][0] - 3, points[0][1]), (points[0][0] + 3, points[0][1])]
        yield Stroke(points, color, 1.75)
        behind = sum(max(72, 7 * len(after) + 16) for after in list(chart.lines)[index + 1 :])
        yield Label(WIDTH - RIGHT - behind, 22, name, "end", 12, color)


def _tick(value: float, ticks: list[float]) -> str:
    """Four digits, or as many as tell the ticks apart."""
    digits = next(n for n in range(4, 16) if n == 15 or len({f"{tick:.{n}g}" for tick in ticks}) == len(ticks))
    return f"{value:.{digits}g}".replace("-", "−")


def _ticks(low: float, high: float, about: int, whole: bool = False) -> list[float]:
    """Round numbers from below ``low`` to above ``high``, around ``about`` of them."""
    if high <= low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    step = max(step, 1.0) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]
