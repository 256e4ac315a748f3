"""fastgen with its CPU kernels under AddressSanitizer and UBSan: builds it from csrc/, runs cases in processes."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g1"]
FLAGS = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-O0", "-DFG_VECTOR_CLONES=", "-DTORCH_STABLE_ONLY"]
TARGET = "-DTORCH_TARGET_VERSION=0x020b000000000000"
TORCH = Path(torch.__file__).parent


def compiler() -> str | None:
    """g++ with its sanitizers' libraries; None where they are not installed."""
    found = shutil.which("g++")
    return found if found and all(_library(found, name) for name in ("libasan.so", "libubsan.so")) else None


def _library(compiler: str, name: str) -> str:
    path = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout
    return path.strip() if Path(path.strip()).is_absolute() else ""


def build(folder: Path, csrc: Path = ROOT / "csrc") -> Path:
    """A folder that holds the package, its Python files as they are and ``_core`` sanitized."""
    package = folder / "fastgen"
    package.mkdir()
    for path in (ROOT / "fastgen").iterdir():
        if path.suffix != ".so" and path.name != "__pycache__":
            (package / path.name).symlink_to(path)
    cxx = compiler()
    assert cxx is not None
    jobs, objects = [], []
    for source in sorted(csrc.glob("*_cpu.cpp")):
        objects.append(folder / f"{source.stem}.o")
        command = [cxx, *SANITIZE, *FLAGS, TARGET, f"-isystem{TORCH / 'include'}", "-w", "-c", str(source)]
        jobs.append(subprocess.Popen([*command, "-o", str(objects[-1])], stderr=subprocess.PIPE, text=True))
    messages = [job.communicate()[1] for job in jobs]
    if any(job.returncode for job in jobs):
        raise RuntimeError("".join(messages))
    link = [cxx, "-shared", *SANITIZE, *map(str, objects), f"-L{TORCH / 'lib'}", "-Wl,--no-as-needed"]
    subprocess.run([*link, "-ltorch_cpu", "-lc10", "-o", str(package / "_core.so")], check=True)
    return folder


@dataclass(frozen=True)
class Report:
    """A case that ended its process, and what the sanitizer said."""

    index: int
    text: str

    def __str__(self) -> str:
        lines = [line for line in self.text.splitlines() if "ERROR" in line or "runtime error" in line or "#" in line]
        return f"case {self.index}: " + "\n    ".join(lines[:8] or self.text.splitlines()[-5:])


def reports(folder: Path, seed: int, first: int, last: int, seen: list[str] | None = None) -> Iterator[Report]:
    """Run cases [first, last); after one that ends its process, those behind it go on in another.

    ``seen``: what came of every case that ended well is added to it.
    """
    cxx = compiler()
    assert cxx is not None
    environment = {
        **os.environ,
        "LD_PRELOAD": f"{_library(cxx, 'libasan.so')}:{_library(cxx, 'libstdc++.so')}",  # this Python is not sanitized
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=1024",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": str(folder),
        "OMP_NUM_THREADS": "2",
    }
    while first < last:
        command = [sys.executable, str(HERE / "run.py"), *map(str, (seed, first, last))]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        lines = done.stdout.splitlines()
        if seen is not None:
            seen.extend(line for line in lines if ":" in line)
        if done.returncode == 0:
            return
        assert lines, done.stderr  # it did not come to the first case
        first = int(lines[-1].split()[0]) + 1
        if done.returncode != -signal.SIGALRM:  # slow, on a busy machine: no fault
            yield Report(first - 1, done.stderr)
