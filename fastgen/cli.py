"""fastgen: classic generative models of images.

    fastgen demo                 train on embedded digits, draw, complete: one picture, in less than three minutes
    fastgen train MODEL          train a model on a data set or on images of your own
    fastgen sample RUN           draw images, or complete half-hidden ones
    fastgen evaluate RUN         likelihood, or other losses, of images that were not trained on
    fastgen compare RUN RUN      runs of all families on the same data: one table, and one picture
    fastgen report RUN           one HTML page: curves, samples, timings, options
    fastgen explore RUN          reconstructions, manifold, traversals, arithmetic: what a latent space holds
    fastgen export RUN           a generator, decoder, encoder or classifier as a file that runs without fastgen
    fastgen encode RUN           the codes of a VQ-VAE's images as a data set, for a prior to be trained on
    fastgen compress RUN IMAGES  images without loss in as many bits as an autoregressive run's likelihood says
    fastgen decompress RUN FILE  the images of such a file
    fastgen download NAME        the files of a named data set, where there is a network
    fastgen taxonomy             densities that are explicit, approximate and implicit, side by side: one picture
    fastgen toy ring             games of points: a ring of Gaussians, or one on a line, over time
    fastgen bench                measure the kernels, sampling and the models against what else there is, here
    fastgen info                 versions, devices, and which kernel runs where

fastgen --version says which it is. Each command explains its options with --help.
"""

import importlib
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from . import _console
from ._extras import MissingExtraError, require
from ._memory import keep_freed_memory
from ._version import __version__

COMMANDS = {
    "demo": "fastgen.commands.demo",
    "train": "fastgen.commands.train",
    "sample": "fastgen.commands.sample",
    "evaluate": "fastgen.commands.evaluate",
    "compare": "fastgen.commands.compare",
    "report": "fastgen.commands.report",
    "explore": "fastgen.commands.explore",
    "export": "fastgen.commands.export",
    "encode": "fastgen.commands.encode",
    "compress": "fastgen.commands.compress",
    "decompress": "fastgen.commands.decompress",
    "download": "fastgen.commands.download",
    "taxonomy": "fastgen.commands.taxonomy",
    "toy": "fastgen.commands.toy",
    "bench": "fastgen.commands.bench",
    "info": "fastgen.commands.info",
}
"""The module of each command; its ``main`` takes the arguments, and returns what to print, if anything."""


UNREAD = 128 + 13
"""Exit code of a command whose output nobody reads any more: that of SIGPIPE, which not every system has by name."""


def command() -> NoReturn:
    """The console script, and ``python -m fastgen``: ``main``, and the end of the process."""
    if sys.argv[1:2] != ["bench"]:  # which measures what users' own processes do
        keep_freed_memory()
    code = main()
    if "torch" in sys.modules:
        from .training.distributed import leave

        leave(code)
    sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0; 2 for an error that its message explains; 130 for Ctrl-C.

    A run that was stopped by another signal than Ctrl-C's returns 128 and its number, as shells do; so does a command
    that has no more reader, without a word.
    """
    _console.prepare()
    try:
        return _main(arguments)
    except BrokenPipeError as error:
        if not _console.is_unread(error):
            raise
        _console.drop_unread()
        return UNREAD


def _main(arguments: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    command = arguments[0] if arguments else "--help"
    if command in ("-h", "--help"):
        print(__doc__)
        return 0
    if command == "--version":
        if arguments[1:]:
            print(f"fastgen: version: expected no arguments, got {' '.join(arguments[1:])}", file=sys.stderr)
            return 2
        print(f"fastgen {__version__}")
        return 0
    if command not in COMMANDS:
        print(f"fastgen: {_unknown(command)}", file=sys.stderr)
        return 2
    try:
        return _code(command, arguments[1:])
    except KeyboardInterrupt:
        print("fastgen: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


def _unknown(command: str) -> str:
    return f"command: expected {', '.join(COMMANDS)}, got {command!r}{_console.did_you_mean(command, COMMANDS)}"


def _code(command: str, arguments: list[str]) -> int:
    """Run a command and return its exit code; torch is imported here, and not for a help text."""
    from .training import CheckpointError, ElsewhereError, NonFiniteError
    from .training.distributed import speaks
    from .training.stopping import Stopped

    try:
        _run(command, arguments)
    except (CheckpointError, ElsewhereError, MissingExtraError, NonFiniteError, OSError, ValueError) as error:
        if _console.is_unread(error):
            raise
        print(f"fastgen: {error}", file=sys.stderr)  # its message is all that a user needs
        return 2
    except KeyboardInterrupt as stop:
        if not isinstance(stop, Stopped) or speaks():  # all of a run's processes stop after the same step
            print(f"fastgen: interrupted{str(stop) and '; '}{stop}", file=sys.stderr)
        return 128 + (stop.number if isinstance(stop, Stopped) else signal.SIGINT)
    return 0


def _run(command: str, arguments: list[str]) -> None:
    if command not in ("info", "bench"):  # which need no extra, until bench plots
        require("tyro")
    said = importlib.import_module(COMMANDS[command]).main(arguments)
    if said:  # of several processes, the first one speaks
        print(said)
