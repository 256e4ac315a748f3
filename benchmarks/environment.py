"""Where numbers come from: the machine, the versions, and exactly which sources ran.

A result names the commit it was measured at. Where there is no git, on a copy of the files, it names their digest, and
``python benchmarks/report.py --resolve FILE`` finds the commit with that digest later, in a repository.
"""

import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

import torch

import fastgen
from checkout import ROOT

#: What decides a number. A file that differs from the commit makes it "+changes".
SOURCES = ("fastgen", "csrc", "benchmarks", "tests/parity.py", "tests/rounding.py", "CMakeLists.txt", "setup.py")
SUFFIXES = (".py", ".h", ".cpp", ".cu", ".cuh", ".txt")


def environment(device: str) -> dict[str, Any]:
    """Machine, versions, threads, precision of float32, sources and commit, as JSON keeps them."""
    found = {
        "date": date.today().isoformat(),
        "device": device,
        "machine": machine(device),
        "threads": torch.get_num_threads(),
        "fastgen": fastgen.__version__,
        "commit": commit(),
        "sources": digest(_files(ROOT)),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if device == "cuda":
        found |= {
            "triton": _triton_version(),
            "cuda": torch.version.cuda,
            "driver": _smi("driver_version"),
            "clocks": _smi("clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem"),
            "float32_products": precision("matmul"),
            "float32_convolutions": precision("conv"),
            "host": machine("cpu"),
        }
    return found


def machine(device: str) -> str:
    """Name of the processor that measures."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    if names and not any(character.isdigit() for character in name):  # a name that a cloud gives to several generations
        family, model = (
            next((line.split(":")[1].strip() for line in lines if line.split("\t")[0] == key), "?")
            for key in ("cpu family", "model")
        )
        name = f"{name} family {family} model {model}"
    limited = ", limited" if "ATEN_CPU_CAPABILITY" in os.environ else ""
    return f"{name}, {len(names) or '?'} cores, {torch.backends.cpu.get_cpu_capability()}{limited}"


def precision(what: str) -> str:
    """How CUDA multiplies float32 in "conv" or "matmul", by torch's own flags: "tf32" or "ieee"."""
    backend = torch.backends.cudnn.conv if what == "conv" else torch.backends.cuda.matmul
    setting = backend.fp32_precision  # type: ignore[attr-defined]
    if setting == "none" and what == "conv":
        setting = torch.backends.cudnn.fp32_precision
    return "tf32" if setting == "tf32" else "ieee"


def commit() -> str:
    """Short hash; "+changes" says that what ran is not what was committed; "unknown" where there is no git."""
    head = _git("rev-parse", "--short", "HEAD")
    if not head:
        return "unknown"
    changed = _git("status", "--porcelain", "--", *SOURCES, ":!benchmarks/results")
    imported = Path(fastgen.__file__).parent
    elsewhere = imported != ROOT / "fastgen" and _python(imported) != _python(ROOT / "fastgen")
    return head + "+changes" * bool(changed or elsewhere)


def digest(files: Iterable[tuple[str, str]]) -> str:
    """One number for files, given as (path, git's hash of the content)."""
    lines = "\n".join(f"{path} {blob}" for path, blob in sorted(files))
    return hashlib.sha1(lines.encode()).hexdigest()


def find_commit(sources: str, depth: int = 500) -> str | None:
    """Short hash of the newest of the last ``depth`` commits whose files have the digest ``sources``."""
    for candidate in _git("rev-list", f"--max-count={depth}", "HEAD").split():
        entries = [line.split("\t") for line in _git("ls-tree", "-r", candidate, "--", *SOURCES).splitlines()]
        if digest((path, entry.split()[2]) for entry, path in entries if path.endswith(SUFFIXES)) == sources:
            return _git("rev-parse", "--short", candidate)
    return None


def _files(root: Path) -> list[tuple[str, str]]:
    found = []
    for source in SOURCES:
        paths = [root / source] if (root / source).is_file() else (root / source).rglob("*")
        found += [path for path in paths if path.suffix in SUFFIXES and path.is_file()]
    return [(path.relative_to(root).as_posix(), _blob(path)) for path in found]


def _blob(path: Path) -> str:
    """Git's name for the content of a file."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _python(package: Path) -> dict[str, str]:
    return {path.relative_to(package).as_posix(): _blob(path) for path in package.rglob("*.py")}


def _git(*arguments: str) -> str:
    if shutil.which("git") is None:
        return ""
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _smi(query: str) -> str | None:
    """What nvidia-smi answers for the first device, read only."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader", "-i", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return done.stdout.strip() if done.returncode == 0 else None


def _triton_version() -> str | None:
    try:
        import triton
    except ImportError:
        return None
    return triton.__version__
