"""The README does what it says: its Python runs, its commands exist, its table is the report's."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastgen.nn import MaskedConv2d

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def test_faster_layers() -> None:
    names = {"images": torch.randn(2, 3, 8, 8), "mu": torch.randn(2, 5), "logvar": torch.randn(2, 5)}
    exec(blocks("python")[0], names)
    assert names["y"].shape == (2, 126, 8, 8)
    assert names["kl"].shape == (2,)


def test_models_that_know_their_likelihood() -> None:
    names = {
        "images": torch.randint(2, (2, 1, 28, 28)),
        "labels": torch.tensor([3, 7]),
        "top_half": torch.arange(28)[:, None].expand(28, 28) < 14,
    }
    code = blocks("python")[1].replace("channels=128, layers=15", "channels=8, layers=2")
    exec(code, names)
    assert names["model"].log_prob(names["images"], names["labels"]).shape == (2,)


def test_sampling_from_any_causal_model(capsys: pytest.CaptureFixture[str]) -> None:
    model = torch.nn.Sequential(MaskedConv2d(1, 8, 7, "A", activation="relu"), MaskedConv2d(8, 1, 1))
    names = {"your_model": model}
    exec(blocks("python")[2].replace("sample(64", "sample(2"), names)
    assert names["images"].unique().tolist() == [0, 1]
    assert "0 of 1568 values differ" in capsys.readouterr().out


@pytest.mark.parametrize("line", [line for block in blocks("sh") for line in block.splitlines()])
def test_commands_parse(line: str) -> None:
    """Every ``fastgen`` line of the README names options that exist."""
    pytest.importorskip("tyro", reason="the command line comes with fastgen[train]")
    words = shlex.split(line.split("#")[0])
    if words[0] != "fastgen":
        assert words[:3] == ["python3", "-m", "venv"]
        return
    known = subprocess.run(
        [sys.executable, "-m", "fastgen", *(words[1:3] if words[1] == "train" else words[1:2]), "--help"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    options = re.findall(r"--[\w-]+", known)
    assert [word for word in words if word.startswith("--") and word not in options] == []


def test_table_is_the_reports() -> None:
    subprocess.run([sys.executable, str(ROOT / "benchmarks/report.py"), "--check"], check=True)
