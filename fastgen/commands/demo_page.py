"""The demo's picture."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..pictures import FAINT, HIDDEN, INK, Page, grid

SCALE, GAP, COLUMNS = 5, 3, 10
CELL = 8 * SCALE + GAP
CELL_PAPER = (242, 243, 245)
ACCENT = (214, 84, 44)
MARGIN, BETWEEN, ASIDE = 48, 48, 364


@dataclass
class Results:
    """What the demo found. Images are values (N, 1, 8, 8)."""

    training: str
    conditions: str  # of every number: machine, versions, seed
    bits: dict[str, float]  # held-out bits/dim by name, the model's last
    bits_error: float  # standard error of the model's
    held_out: int  # images of these numbers
    accuracy: float
    images_per_cpu_second: dict[str, float]
    same: int  # of the drawn images, how many both samplers draw
    levels: int
    real: Tensor  # ten of each class
    drawn: Tensor  # ten of each class
    given: Tensor  # one of each class, whole
    completed: list[Tensor]  # the same, but for the bottom half
    neighbours: list[Tensor]  # of the first drawn of each class, nearest first


def draw_page(results: Results) -> Page:
    """Real digits, drawn ones, the numbers; completions and nearest training images."""
    side = COLUMNS * CELL + GAP
    left, middle, right = MARGIN, MARGIN + side + BETWEEN, MARGIN + 2 * (side + BETWEEN)
    top = 180
    bottom = top + side + 76
    page = Page(right + ASIDE + MARGIN, bottom + 5 * CELL + GAP + 48)
    page.text(left, 40, "Real digits, and digits drawn pixel by pixel", 40)
    page.text(left, 94, f"fastgen demo: a Gated PixelCNN, {results.training}", 19, FAINT)

    def panel(x: int, y: int, title: str, *rows: np.ndarray) -> None:
        page.text(x + GAP, y - 34, title, 21)
        page.picture(x, y, grid(np.concatenate(rows), COLUMNS, SCALE, GAP))

    panel(left, top, "Real, held out of training", _ink(results.real, results.levels))
    panel(middle, top, "Drawn by the model, a class to a row", _ink(results.drawn, results.levels))
    whole = _ink(results.given, results.levels)
    completed = [_ink(images, results.levels, drawn_from=4) for images in results.completed]
    blank = _ink(results.given * 0, results.levels, drawn_from=4)
    blank[:, :4] = whole[:, :4]
    panel(left, bottom, "Top half given: three completions, the truth", blank, *completed, whole)
    drawn = results.drawn[:: len(results.drawn) // COLUMNS]
    rows = (_ink(images, results.levels) for images in (drawn, *results.neighbours))
    panel(middle, bottom, "Drawn, then the nearest training images", *rows)
    _numbers(page, right, top, results)
    page.text(right, bottom + 5 * CELL, results.conditions, 14, FAINT, anchor="ls")
    return page


def _numbers(page: Page, x: int, y: int, results: Results) -> None:
    model, count = list(results.bits)[-1], len(results.drawn)
    errors = {model: f" ± {results.bits_error:.3f}"}
    y = _bars(page, x, y, "Held-out bits per dimension", results.bits, ".3f", errors)
    page.text(x, y, f"exact p(x), labels not given, of {results.held_out} digits", 16, FAINT)
    y = _bars(page, x, y + 92, "Images drawn per CPU-second", results.images_per_cpu_second, ",.0f", {})
    same = "same images" if results.same == count else f"{results.same} of {count} the same"
    page.text(x, y, f"{count} at a time; same uniforms, {same}", 16, FAINT)
    y += 92
    page.text(x, y - 34, "Class by Bayes' rule", 21)
    page.text(x, y - 4, f"{results.accuracy:.1%} right", 40, ACCENT)
    page.text(x, y + 50, "on held-out digits; no classifier was trained", 16, FAINT)


def _bars(page: Page, x: int, y: int, title: str, values: dict[str, float], form: str, errors: dict[str, str]) -> int:
    """Draw a bar for each value, the last one accented; return where the next line goes."""
    page.text(x, y - 34, title, 21)
    for name, value in values.items():
        last = name == list(values)[-1]
        page.text(x, y, name, 17)
        page.text(x + ASIDE, y, f"{value:{form}}{errors.get(name, '')}", 17, anchor="ra")
        page.box(x, y + 25, max(2, round(ASIDE * value / max(values.values()))), 12, ACCENT if last else FAINT)
        y += 52
    return y


def _ink(values: Tensor, levels: int, drawn_from: int | None = None) -> np.ndarray:
    """Values (N, 1, H, W) as ink on paper (N, H, W, 3); the paper of rows that were not given is HIDDEN's colour."""
    paper = np.empty((*values.shape[2:], 3))
    paper[:] = CELL_PAPER
    if drawn_from is not None:
        paper[drawn_from:] = HIDDEN
    ink = values[:, 0, :, :, None].double().numpy() / (levels - 1)
    return (paper * (1 - ink) + np.array(INK) * ink).round().astype(np.uint8)
