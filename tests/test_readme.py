"""What the README's Python comes to, and that its table is the report's; test_docs.py runs every block and command."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from fastgen.nn import MaskedConv2d

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def python_with(word: str) -> str:
    """The README's one block of Python that has ``word``."""
    (block,) = [block for block in blocks("python") if word in block]
    return block


def test_faster_layers() -> None:
    names = {"x": torch.randn(2, 3, 8, 8), "mu": torch.randn(2, 5), "logvar": torch.randn(2, 5)}
    exec(python_with("fnn.MaskedConv2d"), names)
    assert names["y"].shape == (2, 126, 8, 8)
    assert names["kl"].shape == (2,)


def test_swapping_in(capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(nn.ConvTranspose2d(16, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    before, kind = {name: value.clone() for name, value in model.state_dict().items()}, type(model)
    exec(python_with("fastgen.fuse"), {"your_model": model})
    assert "conv_transpose2d_bn + relu" in capsys.readouterr().out
    assert type(model) is kind
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_models_that_know_their_likelihood() -> None:
    names = {
        "images": torch.randint(2, (2, 1, 28, 28)),
        "labels": torch.tensor([3, 7]),
        "top_half": torch.arange(28)[:, None].expand(28, 28) < 14,
    }
    code = python_with("GatedPixelCNN(").replace("channels=128, layers=15", "channels=8, layers=2")
    exec(code, names)
    assert names["model"].log_prob(names["images"], names["labels"]).shape == (2,)


def test_sampling_from_any_causal_model(capsys: pytest.CaptureFixture[str]) -> None:
    model = torch.nn.Sequential(MaskedConv2d(1, 8, 7, "A", activation="relu"), MaskedConv2d(8, 1, 1))
    names = {"your_model": model}
    exec(python_with("sampling.compile").replace("sample(64", "sample(2"), names)
    assert names["images"].unique().tolist() == [0, 1]
    assert "0 of 1568 values differ" in capsys.readouterr().out


def test_table_is_the_reports() -> None:
    subprocess.run([sys.executable, str(ROOT / "benchmarks/report.py"), "--check"], check=True)
