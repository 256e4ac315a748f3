"""The Triton kernels without a GPU: every ``test_*_triton.py`` runs here in a process where Triton interprets."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastgen.ops import _triton

HERE = Path(__file__).parent
LONGEST = "test_conv_transpose2d_bn_triton.py"  # takes as long as all the others, of which each would start anew
OTHERS = sorted(path.name for path in HERE.glob("test_*_triton.py") if path.name != LONGEST)


@pytest.mark.slow
@pytest.mark.parametrize("files", [[LONGEST], OTHERS], ids=["longest", "others"])
def test_in_the_interpreter(files: list[str]) -> None:
    command = [sys.executable, "-m", "pytest", "-v", "-x", "--no-header", "-p", "no:cacheprovider"]
    command += [str(HERE / file) for file in files]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "PYTEST_ADDOPTS": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=HERE.parent, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert all(f"{file}::" in done.stdout for file in files)
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout, done.stdout[-6000:]


def test_the_precision_of_float32_is_what_torch_says() -> None:
    conv = torch.backends.cudnn.conv
    before = conv.fp32_precision
    try:
        for setting in ("ieee", "tf32"):
            conv.fp32_precision = setting
            assert _triton.float32_precision() == setting
    finally:
        conv.fp32_precision = before


def test_recording_launches_nothing() -> None:
    with _triton.recording((9, 0)) as launches:
        _triton.launch(None, (3, 1), torch.empty(2, device="meta"), 7, BLOCK=16, num_warps=8)
        _triton.launch(None, (0, 1), 7)
    (one,) = launches
    assert (one.grid, one.args[1], one.constants, one.num_warps) == ((3, 1), 7, {"BLOCK": 16}, 8)
