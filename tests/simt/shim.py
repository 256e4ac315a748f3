"""CUDA C++ kernels on the CPU: builds simt_kernels from csrc/ with g++ and calls it in a sanitized process.

See simt.h for what this can find and what it cannot.
"""

import os
import pickle
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pybind11
import torch
from torch import Tensor

HERE = Path(__file__).parent
CSRC = HERE.parent.parent / "csrc"
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g1", "-O1"]
SCHEDULES = range(3)  # in order, reversed, shuffled


def compiler() -> str:
    found = shutil.which("g++")
    if found is None:
        raise RuntimeError("the host shim of CUDA kernels needs g++, which also builds fastgen")
    return found


def _library(name: str) -> str:
    path = subprocess.run(
        [compiler(), f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(path).is_absolute():
        raise RuntimeError(f"g++ has no {name}: install GCC's sanitizer libraries (libasan, libubsan)")
    return path


def build(folder: Path) -> Path:
    """``simt_kernels.so`` in ``folder``. The kernels and their machine are sanitized, the binding to NumPy is not."""
    _library("libasan.so")  # says what is missing better than the linker does
    _library("libubsan.so")
    sanitized = [*SANITIZE, "-iquote", str(CSRC), "-iquote", str(HERE), f"-I{HERE / 'include'}"]
    python = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}", "-O0"]
    running = []
    for name, flags in (("kernels", sanitized), ("bindings", python), ("simt", sanitized)):
        command = [compiler(), "-std=c++17", "-fPIC", *flags, "-c", str(HERE / f"{name}.cpp"), "-o", f"{name}.o"]
        running.append(subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True))
    messages = [process.communicate()[1] for process in running]
    if any(process.returncode for process in running):
        raise RuntimeError("".join(messages))
    link = [compiler(), "-shared", *SANITIZE, "-Wl,--wrap=__asan_register_globals", "-o", "simt_kernels.so"]
    subprocess.run([*link, "kernels.o", "simt.o", "bindings.o"], cwd=folder, check=True)
    return folder / "simt_kernels.so"


class SanitizerError(Exception):
    """A sanitizer ended the process; its report."""


class Shim:
    """The kernels in ``library``, in a process that is started when needed."""

    def __init__(self, library: Path) -> None:
        self.library = library
        self._process: subprocess.Popen[bytes] | None = None
        self._report = library.with_suffix(".txt")

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "LD_PRELOAD": f"{_library('libasan.so')}:{_library('libstdc++.so')}",  # this Python is not sanitized
            "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",  # the latter costs megabytes per fiber
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }
        command = [sys.executable, str(HERE / "server.py"), str(self.library.parent)]
        pipe = subprocess.PIPE
        with self._report.open("wb") as report:
            return subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=report)

    def ask(self, name: str, *arguments: Any) -> Any:
        """Call a function of the module.

        Raises:
            SanitizerError: a sanitizer, or the clock, ended the process.
            RuntimeError: the machine found that the kernel cannot go on.
        """
        if self._process is None:
            self._process = self._start()
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            pickle.dump((name, arguments), process.stdin)
            process.stdin.flush()
            answer = pickle.load(process.stdout)
        except (EOFError, BrokenPipeError):
            self.close()
            raise SanitizerError(f"exit status {process.returncode}\n{self._report.read_text()}") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()
            self._process = None

    def call(
        self,
        op: str,
        dtype: torch.dtype,
        sizes: Sequence[int],
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        *,
        schedule: int = 0,
        offset: int = 0,
    ) -> list[Tensor]:
        """Launch ``op`` as csrc/ does.

        Args:
            op: a name that kernels.cpp knows.
            dtype: the element type that the launch is instantiated for.
            sizes: its integers, in order.
            inputs: its input arrays, contiguous.
            outputs: tensors on device "meta": shape and dtype of each output, which begins as NaN.
            schedule: of ``SCHEDULES``.
            offset: every array begins so many elements behind an aligned address.
        """
        result = self.ask(
            "call",
            op,
            str(dtype).removeprefix("torch."),
            list(sizes),
            [(_bytes(one), offset * one.element_size()) for one in inputs],
            [(one.numel() * one.element_size(), offset * one.element_size()) for one in outputs],
            schedule,
        )
        return [
            torch.from_numpy(array).view(one.dtype).view(one.shape) for array, one in zip(result, outputs, strict=True)
        ]


def _bytes(tensor: Tensor) -> np.ndarray:
    return tensor.contiguous().flatten().view(torch.uint8).numpy()
