"""Writes the README's table from the committed results.

    python benchmarks/report.py [--check]

Reads benchmarks/results/*.json and replaces what stands in README.md between the two `results` markers. With --check it
writes nothing and fails if the README would change.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- results: written by benchmarks/report.py -->", "<!-- end of results -->"
#: Device of a result → whether any result comes from one. What has none is said to be unmeasured.
GPU_WORDS = ("NVIDIA", "GeForce", "Tesla", "H100", "H200", "A100")


def duration(seconds: float) -> str:
    if seconds >= 120:
        return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1 or unit == "µs":
            return f"{seconds * factor:.3g} {unit}"
    raise AssertionError


def rows(report: dict[str, Any]) -> list[list[str]]:
    """Table rows of one results file: what, shape, fastgen, the best alternative, ratio."""
    if report["benchmark"] == "sampling":
        return [
            [
                f"sample {case['model']}, {case['parameters'] / 1e6:.1f} M weights",
                _shape(case["shape"]),
                f"{duration(case['cpu_s']['compiled']['median'])} CPU",
                f"{duration(case['cpu_s']['forward']['median'] * case['ceiling'])} CPU (one forward a pixel)",
                f"{case['ratio']:.0f}×",
            ]
            for case in report["cases"]
        ]
    return [
        [
            case["case"],
            _shape(case["shape"]),
            duration(1e-6 * case["microseconds"]["fastgen"]),
            f"{duration(1e-6 * case['microseconds'][case['best_alternative']])} ({case['best_alternative']})",
            f"{case['ratio']:.2g}×",
        ]
        for case in report["cases"]
    ]


def _shape(shape: list[int]) -> str:
    return "×".join(map(str, shape))


def table(reports: list[dict[str, Any]]) -> str:
    lines = ["| what | input | fastgen | best alternative | ratio |", "|---|---|---|---|---|"]
    notes = []
    for report in reports:
        lines += ["| " + " | ".join(row) + " |" for row in rows(report)]
        env = report["environment"]
        dtypes = ", ".join(sorted({case["dtype"] for case in report["cases"]}))
        notes.append(
            f"{report['benchmark']}: {env['machine']}, {env['threads']} thread{'s' * (env['threads'] > 1)}, {dtypes}, "
            f"torch {env['torch']}, commit {env['commit']}, {env['date']}"
        )
    gpu = any(word in report["environment"]["machine"] for report in reports for word in GPU_WORDS)
    if not gpu:
        notes.append("**Nothing in this table ran on a GPU; the CUDA kernels have been compiled, not run.**")
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if not list((ROOT / "benchmarks/results").glob("*.json")):
        sys.exit("benchmarks/results: expected results, found none")
    reports = [json.loads(path.read_text()) for path in sorted((ROOT / "benchmarks/results").glob("*.json"))]
    readme = ROOT / "README.md"
    text = readme.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    new = f"{before}{BEGIN}\n{table(reports)}\n{END}{after}"
    if options.check:
        sys.exit("README.md: its table is not what benchmarks/report.py writes" if new != text else 0)
    readme.write_text(new)


if __name__ == "__main__":
    main()
