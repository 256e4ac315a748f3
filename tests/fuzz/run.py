"""Runs cases [first, last) in a process that the sanitizers may end: ``python run.py SEED FIRST LAST``.

The number of a case is written before it runs, what came of it after.
"""

import os
import signal
import sys
import warnings
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))

from cases import run_case

SECONDS = 60  # for one case

if __name__ == "__main__":
    seed, first, last = map(int, sys.argv[1:])
    warnings.simplefilter("ignore")
    for index in range(first, last):
        os.write(1, f"{index} ".encode())
        signal.alarm(SECONDS)
        os.write(1, f"{run_case(seed, index)}\n".encode())
