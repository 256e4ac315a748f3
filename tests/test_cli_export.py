"""``fastgen export``: a run's part as a file, what is said of it, and what is refused."""

import json
from pathlib import Path

import pytest
import torch

from commands import VAE, refused, said
from fastgen.training import load_model

for package in ("tyro", "tqdm", "safetensors"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")

SIZES = [*VAE, "--data", "digits", "--channels", "4", "6", "--ema", "0.5"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch with averaged weights, which no test changes."""
    from fastgen.cli import main

    folder = tmp_path_factory.mktemp("export") / "run"
    assert main([*SIZES, "--conditional", "--epochs", "1", "--run", str(folder)]) == 0
    return folder


def test_a_decoder_of_averaged_weights(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, extra, model = tmp_path / "decoder.pt2", {"fastgen.json": ""}, load_model(run)
    lines = said(capsys, "export", run, "--to", path).splitlines()
    assert lines[0] == f"{path}: decoder of vae on digits, epoch 1; batch norms folded: 1"
    assert [line.split() for line in lines[1:4]] == [
        ["reads", "z", "(N,", "2)", "float32:", "a", "code;", "its", "prior", "is", "normal"],
        ["reads", "labels", "(N,)", "int64:", "in", "[0,", "9]"],
        ["gives", "image", "(N,", "1,", "8,", "8)", "float32:", "in", "[0,", "16]"],
    ]
    assert lines[4].startswith("held against the model: off by ")
    assert lines[4].endswith(" allowed, in batches of 1, 2, 7")
    program = torch.export.load(path, extra_files=extra)
    z, labels = torch.randn(4, 2), torch.tensor([1, 0, 9, 3])
    with torch.no_grad():
        torch.testing.assert_close(program.module()(z, labels), model.decode(z, labels))
    about = json.loads(extra["fastgen.json"])
    assert (about["run"], about["checkpoint"]) == ("vae on digits, epoch 1", "best")
    assert (about["latent"], about["classes"], about["class_names"]) == (2, 10, None)


def test_what_export_refuses(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    where = ["--to", tmp_path / "part.pt2"]
    message = refused(capsys, "export", run, "--part", "generator", *where)
    assert "part: expected decoder or encoder, which VAE has, got generator" in message
    assert "to: expected a file in a folder that exists" in refused(
        capsys, "export", "no", "--to", tmp_path / "a/b.pt2"
    )
    assert "to: expected a name that ends in .pt2 or .onnx" in refused(
        capsys, "export", "no", "--to", tmp_path / "b.pt"
    )
    assert list(tmp_path.iterdir()) == []
