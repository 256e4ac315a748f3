"""A roofline plot: what was reached over how much arithmetic there is for each byte, under the measured ceilings.

python benchmarks/roofline.py FILE.json FILE.png
"""

import json
import sys
from pathlib import Path
from typing import Any

import checkout  # noqa: F401
from fastgen._extras import require

INK, PALE = "#222222", "#9a9a9a"
COLORS = ("#3b6fb6", "#c8553d", "#4f9d69", "#8a5fb0", "#c79a2c", "#3aa3a8", "#b8527f", "#6b6b6b")
MARKS = {"forward": "o", "forward + backward": "s"}


def draw(report: dict[str, Any], path: Path) -> None:
    """Write the plot of a report's cases that have floors.

    Each case is a filled mark for fastgen above or below a hollow one for its best alternative, joined by a line. Both
    are counted with the same bytes and operations, the least the case takes, so that height is speed.

    Raises:
        ValueError: no case has a floor.
        MissingExtraError: matplotlib is not installed.
    """
    cases = [case for case in report["cases"] if "bound" in case and case["flops"]]
    if not cases:
        raise ValueError("plot: expected cases with floors, got none; the suite of kernels has them")
    require("matplotlib", extra="bench").use("Agg")
    plt = require("matplotlib.pyplot", extra="bench")
    figure, axes = plt.subplots(figsize=(10, 6), layout="constrained")
    _roofs(axes, report["ceilings"], [case["flops"] / case["bytes"] for case in cases])
    ops = sorted({case["name"].split()[0] for case in cases})
    colors = {op: COLORS[i % len(COLORS)] for i, op in enumerate(ops)}
    for case in cases:
        _case(axes, case, colors[case["name"].split()[0]])
    for op in ops:
        axes.plot([], [], "s", color=colors[op], label=op)
    for way, mark in MARKS.items():
        axes.plot([], [], mark, color=INK, label=f"fastgen, {way}")
    axes.plot([], [], "o", markerfacecolor="none", color=INK, label="best alternative")
    axes.set(xscale="log", yscale="log", xlabel="operations per byte of least traffic", ylabel="FLOP/s")
    env = report["environment"]
    quick = "quick, meaningless: " * report["quick"]
    axes.set_title(f"{quick}{env['machine']}, torch {env['torch']}, commit {env['commit']}", fontsize=10, color=INK)
    axes.grid(which="major", color="#e5e5e5", linewidth=0.6)
    figure.legend(fontsize=8, frameon=False, loc="outside right upper")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _roofs(axes: Any, ceilings: dict[str, Any], intensities: list[float]) -> None:
    """The measured copy of large tensors as a slope, the measured products as lines."""
    copies = ceilings["copy_gb_per_s"]
    bandwidth = 1e9 * copies[max(copies, key=int)]
    rates = {unit: 1e12 * value for unit, value in ceilings["product_tflop_per_s"].items()}
    left, right = min(intensities) / 3, max([*intensities, *(rate / bandwidth for rate in rates.values())]) * 3
    top = max(rates.values())
    axes.plot([left, top / bandwidth], [left * bandwidth, top], color=PALE, linewidth=1)
    axes.annotate(
        f"copy, {1e-9 * bandwidth:.4g} GB/s", (left * 1.3, left * bandwidth), va="top", fontsize=8, color=PALE
    )
    for unit, rate in rates.items():
        axes.plot([rate / bandwidth, right], [rate, rate], color=PALE, linewidth=1)
        axes.annotate(
            f"{unit} products, {1e-12 * rate:.3g} TFLOP/s", (right, rate * 1.06), ha="right", fontsize=8, color=PALE
        )
    axes.set_xlim(left, right)


def _case(axes: Any, case: dict[str, Any], color: str) -> None:
    x, mark = case["flops"] / case["bytes"], MARKS.get(case["way"], "D")
    times = case["microseconds"]
    ours = case["flops"] / (1e-6 * times["fastgen"])
    if case["best_alternative"] is not None:
        other = case["flops"] / (1e-6 * times[case["best_alternative"]])
        axes.plot([x, x], [ours, other], color=color, linewidth=0.8)
        axes.plot(x, other, mark, color=color, markerfacecolor="white", markersize=5)
    axes.plot(x, ours, mark, color=color, markersize=5)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python benchmarks/roofline.py FILE.json FILE.png")
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
