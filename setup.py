"""Builds the kernel libraries with CMake and Ninja; every source is listed in CMakeLists.txt, nothing here.

Environment: FASTGEN_CUDA=0|1 forces the CUDA kernels off or on (default: on where nvcc is found);
FASTGEN_CUDA_ARCHS="80;90a" picks their targets.
"""

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class CMakeBuild(build_ext):
    """Runs CMake and installs what it built beside the Python files."""

    def build_extension(self, ext: Extension) -> None:
        options = [f"-DPython3_EXECUTABLE={sys.executable}", "-DCMAKE_BUILD_TYPE=Release"]
        for name in ("FASTGEN_CUDA", "FASTGEN_CUDA_ARCHS"):
            value = os.environ.get(name, "")
            if name == "FASTGEN_CUDA" and value not in ("", "0", "1"):
                sys.exit(f"FASTGEN_CUDA: expected 0 or 1, got {value!r}")
            # An unset variable returns a cached build folder to the default of CMakeLists.txt.
            entries = ";".join(value.replace(",", " ").replace(";", " ").split())
            options.append(f"-D{name}={entries}" if value else f"-U{name}")
        jobs = [f"-j{os.environ['MAX_JOBS']}"] if os.environ.get("MAX_JOBS") else []
        run_cmake("-G", "Ninja", "-S", ROOT, "-B", self.build_temp, *options)
        run_cmake("--build", self.build_temp, *jobs)
        run_cmake("--install", self.build_temp, "--prefix", Path(self.build_lib).resolve() / "fastgen")

    def copy_extensions_to_source(self) -> None:  # editable installs, and build_ext --inplace
        run_cmake("--install", self.build_temp, "--prefix", ROOT / "fastgen")

    def get_output_mapping(self) -> dict[str, str]:
        return {}

    def get_outputs(self) -> list[str]:
        return []


def run_cmake(*arguments: object) -> None:
    command = ["cmake", *map(str, arguments)]
    tools = Path(sys.executable).parent  # cmake and ninja from pip stand beside this Python
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', '')}"}
    try:
        subprocess.run(command, check=True, env=environment)
    except FileNotFoundError:
        sys.exit("cmake and ninja are needed to build fastgen: pip install cmake ninja")
    except subprocess.CalledProcessError as error:
        sys.exit(f"building fastgen's kernels failed (exit code {error.returncode}): {' '.join(command)}")


class AnyPython3(bdist_wheel):
    """The libraries use no Python ABI: one wheel per platform."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("fastgen._core", sources=[])],
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": AnyPython3},
)
