"""Commands on images from images: trained, resumed, evaluated, drawn, of each thing that can be given."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from commands import refused, said
from fastgen.cli import main
from fastgen.data import Grey, given_by, load
from fastgen.sampling import NaiveSampler
from fastgen.training import checkpoint, load_model

for package in ("tyro", "tqdm", "safetensors", "PIL"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (40, 4, 4, 3), np.uint8)
PLAIN = ["train", "gated-pixelcnn", "--channels", "6", "--layers", "1", "--batch-size", "12"]
TRAIN = [*PLAIN, "--map-layers", "1"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.savez(tmp_path / "data.npz", x=X, y=np.arange(40) % 2)
    return tmp_path / "data.npz"


def values(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("words", ["grey", "downsampled:2", "subsampled:2"])
def test_a_run_from_training_to_drawing(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture, words: str) -> None:
    run, again, npz = tmp_path / "run", tmp_path / "again", tmp_path / "drawn.npz"
    command = [*TRAIN, "--data", data, "--levels", "4", "--given", words, "--save-every", "1", "--samples", "4"]
    command += ["--conditional"] if words == "grey" else []
    said(capsys, *command, "--run", run, "--epochs", 2)
    said(capsys, *command, "--run", again, "--epochs", 1)
    said(capsys, "train", "gated-pixelcnn", "--run", again, "--resume", "--epochs", 2)
    one, other = (checkpoint.load(folder / "checkpoints").weights["model"] for folder in (run, again))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items()), "resumed as if it had never ended"
    assert (run / "samples" / "epoch-0002.png").is_file()
    assert (run / "held_out.png").is_file()
    found = json.loads(said(capsys, "evaluate", run, "--json"))
    assert found["nats"] > 0 < found["shuffled"]["nats"] != found["nats"]
    assert "nats given the map of another image" in said(capsys, "evaluate", run)

    form, model = given_by(words), load_model(run)
    whole = load(data, split="test", levels=4).subset(2, 5)
    line = said(capsys, "sample", run, "--n", 2, "--seed", 5, "--out", tmp_path / "s.png", "--npz", npz)
    assert line.startswith("6 images in "), "three of each"
    drawn, told = values(npz), form.prepare(whole)
    condition: Any = told.condition
    condition = {"labels": whole.labels, "map": condition} if words == "grey" else condition
    assert (drawn.get("condition", drawn.get("condition_map"))[2:4] == told.condition.numpy()).all()
    known = model.known_by(condition) or (None, None)
    sampler = NaiveSampler(model, told.shape)
    first = sampler.sample(seed=5, condition=condition, known=known[0], known_mask=known[1])
    assert (drawn["x"][:2] == form.join(first, told.condition, 4).numpy()).all()
    assert int(drawn["levels"]) == 4

    np.save(tmp_path / "others.npy", X[:3])
    label = ["--labels", "1"] if words == "grey" else []
    draw = ["sample", run, "--draws", "1", "--out", tmp_path / "s.png", "--npz", npz, *label]
    said(capsys, *draw, "--given", tmp_path / "others.npy")
    from_whole = values(npz)["x"]
    small = {"grey": Grey().split(torch.from_numpy(X[:3].transpose(0, 3, 1, 2) // 64), 4)[1]}
    if words != "downsampled:2":
        part = small["grey"].numpy() if words == "grey" else X[:3, ::2, ::2].transpose(0, 3, 1, 2)
        part = np.rint((part + 1) * 1.5).astype(np.uint8) if words == "grey" else part // 64
        np.savez(tmp_path / "small.npz", x=part, levels=4)
        said(capsys, *draw, "--given", tmp_path / "small.npz")
        assert (values(npz)["x"] == from_whole).all(), "what is given of an image says all that the image says"
        said(capsys, "sample", run, "--given", tmp_path / "small.npz", "--out", f"{tmp_path / 'single'}/", *label)
        assert len(list((tmp_path / "single").rglob("*.png"))) == 9


def test_a_picture_is_prepared_as_the_runs_images_were(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture
) -> None:
    from PIL import Image

    run, npz = tmp_path / "run", tmp_path / "drawn.npz"
    prepared = ["--image-size", "4", "--crop", "centre"]
    said(
        capsys,
        *TRAIN,
        "--data",
        data,
        "--levels",
        "4",
        "--given",
        "downsampled:4",
        *prepared,
        "--epochs",
        1,
        "--run",
        run,
    )
    Image.fromarray(RNG.integers(0, 256, (9, 14, 3), np.uint8)).save(tmp_path / "photo.png")
    said(capsys, "sample", run, "--given", tmp_path / "photo.png", "--out", tmp_path / "s.png", "--npz", npz)
    assert values(npz)["x"].shape == (3, 3, 4, 4)


def test_what_does_not_fit_is_refused(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture) -> None:
    run, plain = tmp_path / "run", tmp_path / "plain"
    np.savez(tmp_path / "grey.npz", x=X[..., 0])
    how = ["--data", data, "--samples", "0", "--limit", "12", "--epochs", "1"]
    train = [*TRAIN, *how]
    for options, message in (
        (["--given", "grey", "--data", tmp_path / "grey.npz"], "given: expected images of three colours for grey, got"),
        (["--given", "downsampled:3"], "given: expected a divisor of the images' 4x4 pixels, got downsampled:3"),
    ):
        assert message in refused(capsys, *train, *options)
    for options, message in (
        (["--given", "gray"], "given: expected grey, downsampled:K or subsampled:K, got 'gray'"),
        (["--given", "subsampled:2", "--flip"], "flip: expected it without --given subsampled, whose pixels"),
    ):
        with pytest.raises(SystemExit):
            main([str(each) for each in [*train, *options]])
        assert message in " ".join(capsys.readouterr().err.split())
    said(capsys, *train, "--levels", "4", "--given", "downsampled:2", "--run", run)
    said(capsys, *PLAIN, *how, "--levels", "4", "--run", plain)
    np.save(tmp_path / "odd.npy", np.full((2, 6, 6, 3), 255, np.uint8))
    for options, message in (
        ([run, "--given", tmp_path / "none.npy"], "given: expected a picture, a folder of pictures, an .npy or"),
        (
            [run, "--given", tmp_path / "odd.npy"],
            "given: expected images 3x4x4, or 3x2x2, what is given",
        ),
        ([run, "--complete", "top-half"], "complete: expected none, since the run is given means of 2x2 pixels"),
        ([run, "--draws", "0"], "draws: expected 1 or more, got 0"),
        ([plain, "--given", data], "given: expected none, since the run is given no images"),
    ):
        assert message in refused(capsys, "sample", *options, "--out", tmp_path / "s.png")
    assert "run: expected one that draws images whole" in said(capsys, "evaluate", run, "--quality", code=2)


def test_a_map_that_the_data_have_themselves(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """--given condition: all of the image is drawn, the map is told, and with --conditional the class, too."""
    path, run = tmp_path / "told.npz", tmp_path / "run"
    maps = RNG.standard_normal((40, 2, 2, 4)).astype(np.float32)
    np.savez(path, x=X, y=np.arange(40) % 2, condition=maps)
    command = [*TRAIN, "--data", path, "--levels", "4", "--given", "condition", "--epochs", "1", "--samples", "4"]
    said(capsys, *command, "--run", run)
    assert load_model(run).config["condition_shape"] == [2, 2, 4]
    found = json.loads(said(capsys, "evaluate", run, "--json"))
    own = load(path, split="test", levels=4)
    nats = -load_model(run).log_prob(own.values, condition=own.condition).detach()
    assert found["nats"] == pytest.approx(float(nats.double().mean()), rel=1e-5)
    npz, told = tmp_path / "drawn.npz", tmp_path / "maps.npy"
    np.save(told, maps[:3])
    said(capsys, "sample", run, "--n", 3, "--seed", 5, "--condition", told, "--npz", npz, "--out", tmp_path / "s.png")
    assert torch.equal(torch.from_numpy(values(npz)["condition"]), torch.from_numpy(maps[:3]))
    both = tmp_path / "both"
    said(capsys, *command, "--conditional", "--run", both)
    assert load_model(both).config["classes"] == 2
    assert json.loads(said(capsys, "evaluate", both, "--json"))["shuffled"]["nats"] > 0
    np.savez(path, x=X, condition=maps[:, :, 0, 0])
    message = refused(capsys, *command, "--run", tmp_path / "none")
    assert "given: expected data with a map, an array of floating-point numbers (N, C', H', W')" in message
    assert "got floating point (N, 2)" in message
