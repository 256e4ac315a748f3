"""``fastgen bench``: the benchmark suite of a checkout of the repository.

Numbers need the commit they were measured at and the parity checks of the tests, so the suite stands in the repository,
in ``benchmarks/``, and not in the package. Its options are in ``benchmarks/suite.py``. It needs no extra: it runs on a
machine that has nothing but torch.
"""

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path

import fastgen


def main(arguments: list[str]) -> str:
    """Run the suite as the arguments say, and return its table."""
    folder = find_suite([Path(fastgen.__file__).parents[1], Path.cwd()])
    sys.path.insert(0, str(folder))
    return importlib.import_module("suite").main(arguments)


def find_suite(roots: Iterable[Path]) -> Path:
    """``benchmarks/`` of the first root that is a checkout.

    Raises:
        ValueError: none is one.
    """
    roots = list(roots)
    for root in roots:
        if (root / "benchmarks/suite.py").is_file() and (root / "tests/parity.py").is_file():
            return root / "benchmarks"
    looked = " and ".join(str(root) for root in roots)
    raise ValueError(
        "the benchmarks are in the repository, not in the package: expected a checkout around the package or in the "
        f"current folder, found none in {looked}. Get one with git, install it with pip install -e, and run it there"
    )
