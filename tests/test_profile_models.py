"""benchmarks/profile_models.py: what it counts, and that the steps which it watches are those of the suite."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from bench_models import EVAL, TRAINING, tasks
from profile_models import group, main, profiled, read_log, reorders

LOG = """onednn_verbose,v1,info,cpu,isa:Intel AVX-512
onednn_verbose,v1,primitive,exec,cpu,reorder,jit,undef,src:f32::blocked:abcd::f0 dst:f32::blocked:aBc::f0,,,2x16x8x8,7.5
onednn_verbose,v1,primitive,exec,cpu,convolution,jit,forward_training,src:f32:a:blocked:aBcd16b::f0,,alg:direct,mb2,6.5
onednn_verbose,v1,primitive,exec,cpu,reorder,jit:uni,undef,src:bf16::blocked:ab::f0 dst:f32::blocked:ba::f0,,,4x3,0.25
"""


def test_reorders_are_read_from_the_log_of_onednn() -> None:
    assert read_log(LOG) == {"calls": 2, "bytes": 2 * 16 * 8 * 8 * 4 + 4 * 3 * 2, "ms": 7.75}
    assert read_log("") == {"calls": 0, "bytes": 0, "ms": 0}


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
def test_reorders_of_a_convolution_are_counted_and_nothing_is_printed(capfd: pytest.CaptureFixture) -> None:
    x, weight = torch.randn(2, 16, 8, 8), torch.randn(32, 16, 3, 3)
    counted = reorders(lambda: F.conv2d(x, weight, padding=1))
    assert counted["calls"] >= 1
    assert counted["bytes"] >= 4 * min(x.numel(), weight.numel())
    assert reorders(lambda: x + 1)["calls"] == 0
    assert capfd.readouterr().out == ""


def test_operators_that_compute_nothing_are_copies() -> None:
    names = ("aten::copy_", "aten::clone", "aten::cat", "aten::mul", "fastgen::masked_conv2d", "aten::_foreach_add_")
    assert [group(name) for name in names] == ["copies"] * 3 + ["aten::mul", "fastgen::masked_conv2d", "optimiser"]


def test_a_budget_says_what_was_called_how_often() -> None:
    x = torch.randn(64, 64)
    found = profiled(lambda: (x @ x).clone(), rounds=2)
    assert found["groups"]["aten::mm"]["calls"] == 1
    assert found["groups"]["copies"]["calls"] >= 1
    assert found["peak_bytes"] == 2 * 4 * 64 * 64
    assert found["ms_watched"] >= sum(row["ms"] for row in found["groups"].values()) - 1e-3


def test_steps_of_the_suite_are_profiled_from_end_to_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "profile.json"
    arguments = ["--quick", "--only", "PixelCNN", "--forms", "fastgen", "--json", str(path)]
    monkeypatch.setattr("sys.argv", ["profile_models", *arguments])
    main()
    found: dict[str, Any] = json.loads(path.read_text())
    expected = [
        (task.name, way) for task in tasks("cpu", quick=True) if "PixelCNN" in task.name for way in (TRAINING, EVAL)
    ]
    assert [(step["name"], step["way"]) for step in found["steps"]] == expected
    for step in found["steps"]:
        assert list(step["contenders"]) == ["fastgen"]
        op = "fastgen::concat_elu" if step["name"] == "PixelCNN++" else "fastgen::masked_conv2d"
        assert step["contenders"]["fastgen"]["groups"][op]["calls"] >= 1
    assert "masked_conv2d" in capsys.readouterr().out


def test_what_was_published_has_the_gradients_of_the_one_loss() -> None:
    for task in tasks("cpu", quick=True):
        if task.published is None:
            continue
        torch.manual_seed(0)
        model = task.models()[1].double()
        batch = [each.double() for each in task.batch()]
        torch.manual_seed(1)
        total = sum(task.published(model, *batch))
        grads = torch.autograd.grad(total, list(model.parameters()))
        torch.manual_seed(1)
        ours = torch.autograd.grad(task.loss(model(*batch[:-1]), batch[-1]), list(model.parameters()))
        scale = len(batch[0]) if "VAE" in task.name else 1  # summed over images, and not their mean
        for theirs, one in zip(grads, ours, strict=True):
            torch.testing.assert_close(theirs, scale * one)
