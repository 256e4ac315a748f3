"""Puts this checkout's package and tests on the path, after an installed fastgen. Import it before fastgen."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT), str(ROOT / "tests")]
