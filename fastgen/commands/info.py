"""`fastgen info`: versions, devices, and for every op which kernel would run where, from which file, or why not."""

import json
import platform
from pathlib import Path
from typing import Any

import torch

from .. import _extension
from .._console import several
from .._version import __version__
from ..ops._registry import HAS_TRITON, NAMESPACE, OPS

#: Dispatch key → the library whose kernels claim it.
LIBRARIES = {"CPU": "_core", "CUDA": "_cuda"}


def build() -> dict[str, Any]:
    """What setup.py built: compiler, nvcc and its targets; empty where nothing was built."""
    path = Path(_extension.__file__).with_name("_build.json")
    return json.loads(path.read_text()) if path.exists() else {}


def kernels() -> dict[str, dict[str, str]]:
    """Op → dispatch key → the file whose kernel torch's dispatcher would run, or "reference: <why>", or "none"."""
    return {op: {key: _kernel(op, key, source) for key, source in sources.items()} for op, sources in OPS.items()}


def _kernel(op: str, key: str, source: str) -> str:
    if torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{op}", key):
        return source
    if source.endswith("_triton.py"):
        return "reference: triton is not installed" if not HAS_TRITON else "reference"
    return f"{_otherwise(op)}: {_missing(LIBRARIES[key])}"


def _otherwise(op: str) -> str:
    """What runs where no kernel claims the device; none of an op whose callers ask before they call it."""
    has = torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{op}", "CompositeExplicitAutograd")
    return "reference" if has else "none"


def _missing(library: str) -> str:
    reason = _extension.MISSING.get(library, "not in this build")
    cuda = build().get("cuda")
    return cuda if library == "_cuda" and isinstance(cuda, str) else reason


def _devices() -> list[str]:
    lines = [f"cpu: {several(torch.get_num_threads(), 'thread')}, {torch.backends.cpu.get_cpu_capability()}"]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(index)
            memory = found.total_memory / 2**30
            built = "" if _built_for(found.major, found.minor) else "; no kernel here was built for it"
            lines.append(f"cuda:{index}: {found.name}, sm_{found.major}{found.minor}, {memory:.0f} GiB{built}")
    elif torch.version.cuda is None:
        lines.append("cuda: none; this torch was built without CUDA")
    else:
        lines.append(f"cuda: none; torch has CUDA {torch.version.cuda} but finds no device")
    return lines


def _built_for(major: int, minor: int) -> bool:
    """Whether a target of the build runs on this compute capability: the same major version, or PTX of an older one."""
    cuda = build().get("cuda")
    for target in cuda["archs"].split() if isinstance(cuda, dict) else ():
        number = int("".join(c for c in target.removesuffix("+PTX") if c.isdigit()))
        if number <= 10 * major + minor and (number // 10 == major or target.endswith("+PTX")):
            return True
    return False


def report() -> str:
    """The text that `fastgen info` prints."""
    built = build()
    cuda = built.get("cuda", "not built")
    lines = [
        f"fastgen {__version__}, torch {torch.__version__}, Python {platform.python_version()}, {platform.platform()}",
        f"compiled with {built.get('compiler', 'nothing: run `pip install .` with a C++ compiler')}; CUDA kernels: "
        + (cuda if isinstance(cuda, str) else f"nvcc {cuda['nvcc']} for {cuda['archs']}"),
        *_devices(),
        "",
    ]
    table = [("op", *LIBRARIES)]
    table += [(op, *(by_key.get(key, _otherwise(op)) for key in LIBRARIES)) for op, by_key in kernels().items()]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    if not torch.cuda.is_available():
        lines.append("\nNo CUDA device here: the CUDA column says what would run on one.")
    return "\n".join(lines)


def main(arguments: list[str]) -> str:
    """Report; there is nothing to be told.

    Raises:
        ValueError: there are arguments.
    """
    if arguments in (["-h"], ["--help"]):
        return str(__doc__)
    if arguments:
        raise ValueError(f"info: expected no arguments, got {' '.join(arguments)}")
    return report()
