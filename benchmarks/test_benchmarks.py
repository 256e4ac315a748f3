"""The kernel suite under pytest-benchmark, one test for each contender, to save runs and to compare them.

    python -m pytest benchmarks --benchmark-only --benchmark-save=before -k rsample_kl
    python -m pytest benchmarks --benchmark-only --benchmark-compare=before --benchmark-compare-fail=median:10%

It watches one checkout against another over time. For contenders against each other use `fastgen bench`: they take
turns there, and are set against the floor. The cases and the parity gate are the same. On CUDA where there is one.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from cases import DTYPES, Case, Contest
from suite import chosen

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


CASES = [entry for table in chosen("kernels", DEVICE, quick=False) for entry in table if isinstance(entry, Case)]


def contenders() -> Iterator[Any]:
    for index, case in enumerate(CASES):
        for dtype in DTYPES[DEVICE]:
            for way in case.ways:
                for name, form in case.forms.items():
                    words = (case.name, "x".join(map(str, case.shape)), str(dtype)[6:], way, name)
                    if not form.tuned:
                        yield pytest.param(index, dtype, way, name, id=", ".join(words))


@functools.lru_cache(maxsize=1)
def contest(case: int, dtype: torch.dtype, way: str) -> Contest:
    """Kept while its contenders are measured; its gate has passed."""
    (found,) = (each for each in CASES[case].contests(DEVICE, dtype) if each.way == way)
    found.gate()
    return found


@pytest.mark.parametrize(("case", "dtype", "way", "contender"), list(contenders()))
def test_contender(benchmark: Any, case: int, dtype: torch.dtype, way: str, contender: str) -> None:
    one = contest(case, dtype, way)
    benchmark.group = f"{one.label} {one.shape} {dtype}"
    run = one.contenders[contender]()
    if one.check is not None:
        try:
            one.check(run())
        except AssertionError as error:
            if contender.startswith("fastgen"):
                raise
            pytest.skip(f"{contender} does not compute the same: {error}")
    for _ in range(3):
        run()
    benchmark(_synchronised(run))


def _synchronised(run: Callable[[], Any]) -> Callable[[], None]:
    def call() -> None:
        run()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    return call
