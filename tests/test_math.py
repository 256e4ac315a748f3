"""The torch-free headers, compiled for each instruction set that the kernels have a version of."""

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
FUNCTIONS = ("exp", "expm1", "expm1_small", "log", "log1p", "log1p_small", "tanh", "sigmoid", "sinpi", "cospi")
ULPS = 3.0  # the promise of csrc/math.h


@pytest.mark.skipif(COMPILER is None, reason="needs the C++ compiler that builds fastgen")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the instruction sets named here are x86-64's")
@pytest.mark.parametrize("march", ["x86-64", "x86-64-v3", "x86-64-v4"])
def test_math_on_every_instruction_set(march: str, tmp_path: Path) -> None:
    program = tmp_path / "check_math"
    flags = ["-std=c++20", "-O3", "-fno-math-errno", "-fno-trapping-math", f"-march={march}", "-DFG_VECTOR_CLONES="]
    source = ROOT / "tests/check_math.cpp"
    subprocess.run([COMPILER, *flags, f"-I{ROOT / 'csrc'}", str(source), "-o", str(program)], check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    if done.returncode == -4:
        pytest.skip(f"this processor has no {march}")
    done.check_returncode()
    results = {name: float(value) for name, value in (line.split() for line in done.stdout.splitlines())}
    assert {name: results[name] for name in FUNCTIONS if not results[name] < ULPS} == {}
    exact = {name: value for name, value in results.items() if name not in FUNCTIONS}
    assert {"half_types", "philox_portable", "nan"} <= exact.keys()
    assert {name: value for name, value in exact.items() if value} == {}


@pytest.mark.skipif(COMPILER is None, reason="needs the C++ compiler that builds fastgen")
def test_the_tiles_of_every_instruction_set(tmp_path: Path) -> None:
    """Sums of products in float, whatever runs them; the sanitizers see every read and write."""
    program = tmp_path / "check_tiles"
    flags = ["-std=c++20", "-O2", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    source = ROOT / "tests/check_tiles.cpp"
    subprocess.run([COMPILER, *flags, f"-I{ROOT / 'csrc'}", str(source), "-o", str(program)], check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    results = [line.split() for line in done.stdout.splitlines()]
    assert {"float_portable", "bfloat16_portable", "float16_portable", "dot_portable"} <= {name for name, *_ in results}
    assert {name: numbers for name, *numbers in results if float(numbers[0]) > 1e-6 or int(numbers[1])} == {}
