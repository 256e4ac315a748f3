"""How results are written down: durations, shapes, rates, and tables of plain text and of Markdown."""

from collections.abc import Sequence
from typing import Any


def duration(seconds: float) -> str:
    if seconds >= 120:
        return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1 or unit == "µs":
            return f"{seconds * factor:.3g} {unit}"
    raise AssertionError


def micros(value: float) -> str:
    return duration(1e-6 * value)


def shape(sizes: Sequence[int]) -> str:
    return "×".join(map(str, sizes))


def rate(case: dict[str, Any]) -> str:
    """GB/s where traffic bounds a case, TFLOP/s where arithmetic does, and the share of the ceiling; "" without one."""
    if "bound" not in case:
        return ""
    reached = f"{case['gb_per_s']:.3g} GB/s" if case["bound"] == "memory" else f"{case['tflop_per_s']:.3g} TFLOP/s"
    return f"{reached}, {100 * case['share_of_ceiling']:.0f}%"


def memory(case: dict[str, Any], contender: str) -> str:
    peak = (case.get("peak_bytes") or {}).get(contender)
    return "n/a" if peak is None else f"{peak / 2**20:.3g} MiB"


def ratio(case: dict[str, Any]) -> str:
    return "" if case["ratio"] is None else f"{case['ratio']:.2g}×" if case["ratio"] < 100 else f"{case['ratio']:.0f}×"


def best(case: dict[str, Any]) -> str:
    """The best alternative's time and name."""
    name = case["best_alternative"]
    return "none" if name is None else f"{micros(case['microseconds'][name])} ({name})"


def is_sampling(case: dict[str, Any]) -> bool:
    return "microseconds" not in case


def sampling_times(case: dict[str, Any]) -> tuple[str, str]:
    """The compiled sampler's time, and that of one forward for every pixel."""
    clock = case.get("clock", "cpu")
    unit = "CPU" if clock == "cpu" else "on the CPU"
    ours, forward = (case[f"{clock}_s"][each]["median"] for each in ("compiled", "forward"))
    other = "CPU, one forward a pixel" if clock == "cpu" else "on the GPU, one forward a pixel"
    return f"{duration(ours)} {unit}", f"{duration(forward * case['ceiling'])} {other}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Plain text: columns as wide as their widest cell, two spaces apart."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """The first row is the head."""
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def terminal(report: dict[str, Any]) -> str:
    """What `fastgen bench` prints: every case with its best alternative, floor, rate and memory; losses are marked."""
    env = report["environment"]
    rows = [["case", "input", "dtype", "fastgen", "best alternative", "ratio", "floor", "reached", "memory"]]
    for case in report["cases"]:
        if is_sampling(case):
            ours, other = sampling_times(case)
            rows.append([case["case"], shape(case["shape"]), case["dtype"], ours, other, ratio(case), "", "", ""])
            continue
        floor = micros(case["floor_microseconds"]) if "floor_microseconds" in case else ""
        lost = " (lost)" * (case["ratio"] is not None and case["ratio"] < 1)
        rows.append(
            [case["case"], shape(case["shape"]), case["dtype"], micros(case["microseconds"]["fastgen"]), best(case),
             ratio(case) + lost, floor, rate(case), memory(case, "fastgen")]
        )  # fmt: skip
    lines = [
        f"{env['machine']}, {env['threads']} thread{'s' * (env['threads'] > 1)}, torch {env['torch']}, "
        f"commit {env['commit']}, {env['date']}",
        _ceilings(report["ceilings"]),
        "",
        aligned(rows),
    ]
    if report["quick"]:
        lines.append("\nQuick: tiny inputs and few rounds, to see that everything runs; these numbers mean nothing.")
    lines += [f"FAILED {failed['case']}: {failed['error']}" for failed in report["failed"]]
    lines += [f"{case['case']}: without {name}: {why}" for case in report["cases"] for name, why in _refused(case)]
    if report["left_out"]:
        lines.append(f"no time left for: {'; '.join(report['left_out'])}")
    return "\n".join(lines)


def _refused(case: dict[str, Any]) -> list[tuple[str, str]]:
    return list(case.get("refused", {}).items())


def _ceilings(found: dict[str, Any]) -> str:
    copies = found["copy_gb_per_s"]
    largest = max(copies, key=int)
    parts = [f"copy of {int(largest) / 2**20:.0f} MiB {copies[largest]:.4g} GB/s"]
    parts += [f"{unit} products {value:.3g} TFLOP/s" for unit, value in found["product_tflop_per_s"].items()]
    return "ceilings measured here: " + ", ".join(parts)
