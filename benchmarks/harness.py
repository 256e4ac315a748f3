"""What every benchmark shares: where it ran, timing side by side, and results as JSON.

A case is measured only after its parity check passed in the same process. Contenders take turns, round by round, so
that a busy machine disturbs all of them alike; what counts is the ratio of medians within one run.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgen import __version__

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from parity import assert_parity  # noqa: E402

__all__ = ["ROOT", "assert_parity", "compare", "gradients", "start", "write"]


def start(description: str | None) -> Path | None:
    """Parse --threads and --output, set threads and seed; return where the results go."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="write the JSON here, not to the terminal")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    return options.output


def environment() -> dict[str, Any]:
    """Machine, versions, threads, and the commit; "+changes" says that what ran was not what was committed."""

    def git(*args: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", "fastgen", "csrc", "benchmarks/*.py", "CMakeLists.txt")
    return {
        "date": date.today().isoformat(),
        "machine": _machine(),
        "threads": torch.get_num_threads(),
        "fastgen": __version__,
        "commit": (git("rev-parse", "--short", "HEAD") or "unknown") + ("+changes" if changed else ""),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {len(names) or '?'} cores, {torch.backends.cpu.get_cpu_capability()}"


def copy_seconds(count: int, dtype: torch.dtype, device: str = "cpu") -> float:
    """Median time to copy ``count`` elements: one read and one write each, the unit of a memory floor."""
    source = torch.ones(count, dtype=dtype, device=device)
    target = torch.empty_like(source)
    return statistics.median(_round(lambda: target.copy_(source), 0.02) for _ in range(7))


def _round(run: Callable[[], Any], seconds: float) -> float:
    """Seconds a call, over calls that fill ``seconds``."""
    calls = 0
    start = time.perf_counter()
    while True:
        run()
        calls += 1
        passed = time.perf_counter() - start
        if passed >= seconds:
            return passed / calls


def compare(
    case: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    contenders: dict[str, Callable[[], Any]],
    *,
    floor_copies: int,
    elements: int,
    rounds: int = 21,
    seconds: float = 0.1,
) -> dict[str, Any]:
    """Time contenders in turn; the first is fastgen's, the others are what a user could use instead.

    Args:
        case: what is measured, such as "rsample_kl forward + backward".
        shape: of the main input.
        dtype: of the main input.
        contenders: name → a call. Parity has been checked.
        floor_copies: how often ``elements`` elements must at least be read and written once, as copies.
        elements: of one tensor.
        rounds: how often each contender takes its turn.
        seconds: how long a turn is at least.
    """
    for run in contenders.values():
        for _ in range(3):
            run()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            times[name].append(_round(run, seconds))
    medians = {name: statistics.median(values) for name, values in times.items()}
    ours, *others = medians
    best = min(others, key=lambda name: medians[name])
    floor = floor_copies * copy_seconds(elements, dtype)
    result = {
        "case": case,
        "shape": list(shape),
        "dtype": str(dtype).removeprefix("torch."),
        "microseconds": {name: round(1e6 * value, 1) for name, value in medians.items()},
        "quartiles": {
            name: [round(1e6 * q, 1) for q in statistics.quantiles(values, n=4)[::2]] for name, values in times.items()
        },
        "rounds": rounds,
        "floor_microseconds": round(1e6 * floor, 1),
        "best_alternative": best,
        "ratio": round(medians[best] / medians[ours], 2),
    }
    print(f"{case} {shape}: " + ", ".join(f"{n} {1e6 * t:.0f} us" for n, t in medians.items()), end="")
    print(f"; floor {1e6 * floor:.0f} us; {result['ratio']}x the best alternative ({best})", flush=True)
    return result


def write(benchmark: str, cases: list[dict[str, Any]], output: Path | None) -> None:
    """Print the results as JSON, and write them to ``output`` if it is given."""
    report = json.dumps({"benchmark": benchmark, "environment": environment(), "cases": cases}, indent=1)
    if output is None:
        print(report)
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(report + "\n")


def gradients(results: tuple[Tensor, ...], inputs: list[Tensor], upstream: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(results, inputs, upstream)
