"""What nvcc made of the CUDA C++ kernels, read from the built library for every target: nothing here needs a GPU."""

import functools
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

import fastgen
from aot import CUOBJDUMP
from fastgen.commands import info

ROOT = Path(__file__).parent.parent
BUILT = info.build().get("cuda", "not built")
NAMES = BUILT["archs"].replace("+PTX", "").split() if isinstance(BUILT, dict) else []
ARCHS = [f"sm_{name.removesuffix('f')}" for name in NAMES]  # in a library, family code goes by its number
TYPES = {"f": "float32", "d": "float64", "6__half": "float16", "13__nv_bfloat16": "bfloat16"}
#: Kernel → how many arrays it reads as vectors, 16 bytes at a time, and how many it writes.
VECTORS = {
    "gated_activation_kernel": (2, 1),  # one array, at two places
    "gated_activation_backward_kernel": (3, 2),
    "rsample_kl_kernel": (2, 1),
    "rsample_kl_backward_kernel": (3, 2),
}

#: Of a walk: what takes a plan along has more of everything, and two blocks of 256 threads for a multiprocessor.
WALKS = ("sample_kernel",)

pytestmark = pytest.mark.skipif(not ARCHS, reason=f"CUDA kernels: {BUILT}")


@dataclass(frozen=True)
class Kernel:
    """One instance of a kernel template, compiled for one target."""

    name: str
    dtype: str
    vector: bool  # of the instance that loads vectors; gated_activation has one that does not
    registers: int
    stack: int
    local: int
    sass: str

    def count(self, instruction: str) -> int:
        return len(re.findall(rf"\b{instruction}\b", self.sass))


@functools.cache
def kernels(arch: str) -> tuple[Kernel, ...]:
    library = Path(fastgen.__file__).with_name("_cuda.so")
    usage, sass = (
        subprocess.run([CUOBJDUMP, "-arch", arch, option, library], capture_output=True, text=True, check=True).stdout
        for option in ("--dump-resource-usage", "--dump-sass")
    )
    code = dict(re.findall(r"Function : (\w+)\n(.*?)(?=Function : |\Z)", sass, re.DOTALL))
    found = re.findall(r"Function (_ZN7fastgen\w+):\s+REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", usage)
    return tuple(_kernel(symbol, *map(int, numbers), code[symbol]) for symbol, *numbers in found)


def _kernel(symbol: str, registers: int, stack: int, local: int, sass: str) -> Kernel:
    length, rest = re.fullmatch(r"_ZN7fastgen(?:12_GLOBAL__N_1)?(\d+)(\w+)", symbol).groups()
    name, template = rest[: int(length)], rest[int(length) :]
    types = [dtype for mangled, dtype in TYPES.items() if re.match(rf"I(?:L\w+E)?{mangled}", template)]
    vector = name in VECTORS and "Li1E" not in template
    return Kernel(name, *types, vector, registers, stack, local, sass)


@pytest.mark.parametrize("arch", ARCHS)
def test_every_kernel_is_there_in_every_dtype(arch: str) -> None:
    declared = {
        name
        for path in (ROOT / "csrc").glob("*_cuda.cuh")
        for name in re.findall(r"__global__ void.*?(\w+_kernel)\(", path.read_text(), re.DOTALL)
    }
    assert set(VECTORS) <= declared
    compiled = {(kernel.name, kernel.dtype) for kernel in kernels(arch)}
    assert {name for name, _ in compiled} == declared
    assert {(name, dtype) for name in VECTORS for dtype in TYPES.values()} <= compiled


@pytest.mark.parametrize("arch", ARCHS)
def test_nothing_spills(arch: str) -> None:
    """No local memory: neither spilled registers nor the slow path of sin and cos, which keeps a table there."""
    for kernel in kernels(arch):
        assert (kernel.stack, kernel.local, kernel.count(r"(?:STL|LDL)[.\w]*")) == (0, 0, 0), f"{kernel}"[:200]


@pytest.mark.parametrize("arch", ARCHS)
def test_an_sm_holds_1024_threads(arch: str) -> None:
    """What a GPU needs to have enough bytes in flight; 512 threads in double, of twice the bytes, and of walks."""
    for kernel in kernels(arch):
        most = 128 if kernel.dtype == "float64" or kernel.name in WALKS else 64
        assert kernel.registers <= most, f"{kernel}"[:200]


@pytest.mark.parametrize("arch", ARCHS)
def test_vectors_move_as_16_bytes(arch: str) -> None:
    for kernel in kernels(arch):
        if kernel.vector and kernel.dtype != "float64":  # whose vectors of four some targets move as 32 bytes
            moves = kernel.count(r"LDG\.E[.\w]*\.128[.\w]*"), kernel.count(r"STG\.E[.\w]*\.128[.\w]*")
            assert moves == VECTORS[kernel.name], f"{kernel}"[:200]


@pytest.mark.parametrize("arch", ARCHS)
def test_walks_multiply_by_matrix_instructions_where_they_round(arch: str) -> None:
    walks = [kernel for kernel in kernels(arch) if kernel.name in WALKS]
    assert len(walks) == 6  # of float32, bfloat16 and float16, alone and in teams
    for kernel in walks:
        products = {"bfloat16": r"HMMA\.16816\.F32\.BF16", "float16": r"HMMA\.16816\.F32(?!\.)"}
        roundings = {"bfloat16": r"F2FP\.BF16(?:\.F32)?\.PACK_AB", "float16": r"F2FP(?:\.F16\.F32)?\.PACK_AB"}
        for dtype in products:
            assert (kernel.count(products[dtype]) > 0) == (kernel.dtype == dtype)
            assert (kernel.count(roundings[dtype]) > 0) == (kernel.dtype == dtype)
        assert kernel.count(r"F2FP[.\w]*SAT[.\w]*") == 0, "what a type has not is infinite"
        assert kernel.count(r"LDG\.E[.\w]*\.128[.\w]*|LD\.E[.\w]*\.128[.\w]*") > 0
