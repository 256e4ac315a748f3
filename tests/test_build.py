"""The build: one list of sources, and libraries that any torch from 2.11 on can load."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARIES = [path for path in (ROOT / "fastgen" / f"{name}.so" for name in ("_core", "_cuda")) if path.exists()]


def test_every_source_is_listed_once() -> None:
    listed = re.findall(r"csrc/\w+\.(?:cpp|cu)\b", (ROOT / "CMakeLists.txt").read_text())
    assert sorted(listed) == sorted(
        f"csrc/{path.name}" for path in (ROOT / "csrc").glob("*.c[pu]*") if path.suffix != ".cuh"
    )


def test_kernel_headers_are_torch_free() -> None:
    """What CPU, CUDA and tests share includes no torch header, however deep."""
    torch_side = {
        "tensor_utils.h",
        "torch_convolution.h",
        "gated_activation_host.h",
        "batch_norm_tensors.h",
        "cuda_utils.cuh",
        "gated_activation_cpu.h",
        "conv2d_products_tensors.h",
        "conv2d_tensors.h",
        "mlp_pairs_tensors.h",
        "masked_tensors.h",
        "pixel_convolution.h",
        "rsample_kl_host.h",
        "sample_host.h",
    }
    headers = {path.name: path.read_text() for path in (ROOT / "csrc").glob("*.h")}
    headers |= {path.name: path.read_text() for path in (ROOT / "csrc").glob("*.cuh")}
    assert torch_side < headers.keys()
    for name in headers.keys() - torch_side:
        included = set(re.findall(r'#include [<"]([^>"]+)[>"]', headers[name]))
        assert not included & torch_side, name
        assert not any(path.startswith(("torch", "ATen", "c10")) for path in included), name


#: What torch 2.11 has in its headers, of all that later ones have.
OF_TORCH = {
    "STABLE_TORCH_LIBRARY_IMPL", "STD_TORCH_CHECK", "THO_DISPATCH_V2", "TORCH_ABI_VERSION", "TORCH_BOX",
    "TORCH_ERROR_CODE_CHECK", "aoti_torch__reinterpret_tensor", "aoti_torch_aten_new_empty",
    "aoti_torch_get_current_cuda_stream", "torch_call_dispatcher", "torch_delete_string", "torch_string_c_str",
    "torch_string_length", "torch::headeronly::BFloat16", "torch::headeronly::Half",
    "torch::headeronly::HeaderOnlyArrayRef", "torch::headeronly::MemoryFormat::ChannelsLast",
    "torch::headeronly::ScalarType", "torch::headeronly::ScalarType::BFloat16", "torch::headeronly::ScalarType::Half",
    "torch::stable::Tensor", "torch::stable::accelerator::DeviceGuard", "torch::stable::contiguous",
    "torch::stable::detail::StableLibrary", "torch::stable::detail::ToImpl", "torch::stable::detail::from",
    "torch::stable::detail::to", "torch::stable::empty_like", "torch::stable::get_num_threads",
    "torch::stable::narrow", "torch::stable::new_zeros", "torch::stable::pad", "torch::stable::parallel_for",
    "torch::stable::to", "torch::stable::zero_",
}  # fmt: skip


def test_sources_build_with_the_oldest_torch() -> None:
    """A name that is not there: build with torch 2.11 (``pip install torch==2.11.0``) before it is added."""
    c = r"(?:aoti_)?torch_[a-z_0-9]+|(?:STABLE_|STD_)?TORCH_[A-Z_]+|THO_\w+"
    cpp = r"torch::(?:stable|headeronly)::[\w:]+\w"
    used = {
        name
        for path in (ROOT / "csrc").iterdir()
        for line in path.read_text().splitlines()
        for name in re.findall(rf"\b(?:{c}|{cpp})", re.sub(r'//.*|#include.*|"[^"]*"', "", line))
    }
    assert used - {"torch_convolution", "torch_convolution_backward"} == OF_TORCH  # ours, of which torch's are called


def included(name: str) -> set[str]:
    """The headers of csrc that a header includes, however deep."""
    found = set(re.findall(r'#include "([^"]+)"', (ROOT / "csrc" / name).read_text()))
    return found.union(*map(included, found))


@pytest.mark.parametrize("name", ["sample_plan.h", "sample_layout.h"])
def test_a_sampling_plan_knows_no_processor(name: str) -> None:
    """What decodes and checks it is for every executor; headers for the CPU alone end in _cpu.h."""
    assert "sample_ops.h" in included(name)
    assert [header for header in included(name) if header.endswith("_cpu.h")] == []
    assert {"sample_products_cpu.h", "sample_gemm_cpu.h"} < included("sample.h")


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm, which comes with binutils")
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_library_uses_the_stable_abi_only(library: Path) -> None:
    """No C++ symbol of torch and nothing of Python or the CUDA runtime is left to resolve at load time."""
    listing = subprocess.run(
        ["nm", "-D", "--undefined-only", library], capture_output=True, text=True, check=True
    ).stdout
    symbols = [line.split()[-1].split("@")[0] for line in listing.splitlines()]
    of_torch = [name for name in symbols if "torch" in name]
    assert of_torch
    assert all(name.startswith(("aoti_torch_", "torch_")) for name in of_torch)
    assert not [name for name in symbols if re.match(r"_ZN?K?\d*(2at|3c10|5torch)|Py[A-Z_]|cuda[A-Z]", name)]


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake on PATH")
def test_insisting_on_cuda_without_nvcc_is_an_error(tmp_path: Path) -> None:
    for name in ("cmake", "ninja", "make", "c++", "as", "ld", "ar"):  # a PATH of these alone, without nvcc
        found = shutil.which(name)
        if found is not None:
            (tmp_path / name).symlink_to(Path(found).resolve())
    generator = ["-G", "Ninja"] if (tmp_path / "ninja").exists() else []
    source = ["-S", str(ROOT), "-B", str(tmp_path / "build")]
    options = ["-DFASTGEN_CUDA=1", f"-DPython3_EXECUTABLE={sys.executable}"]
    done = subprocess.run(
        ["cmake", *generator, *source, *options],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "FASTGEN_CUDA=1, but no working nvcc was found" in done.stderr
