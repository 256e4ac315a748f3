"""Ctrl-C while the command line is still being imported: torch alone takes seconds."""

import signal
import sys
from pathlib import PurePath
from types import TracebackType

NAME = "fastgen"


def prepare() -> None:
    """Let Ctrl-C end the command line with one line and exit code 130, before ``main`` is there to see to it.

    Whoever imports the package for something else keeps their traceback.
    """
    if is_command():
        sys.excepthook = _say


def is_command() -> bool:
    """Whether this process is the console script or ``python -m fastgen``."""
    program = sys.argv[0] if sys.argv else ""
    if program == "-m":  # what Python puts there while it imports the packages around the module
        return NAME in sys.orig_argv
    return PurePath(program).stem == NAME


def _say(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    print(f"{NAME}: interrupted", file=sys.stderr)
    sys.exit(128 + signal.SIGINT)
