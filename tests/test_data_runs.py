"""Runs on prepared images: what was done to them is kept, and done again by every command; training mirrors some."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from commands import refused
from fastgen.cli import main
from fastgen.commands.images import load_images
from fastgen.commands.model_options import MODELS
from fastgen.data import Dataset, load, load_for_training
from fastgen.training import Recipe, Run, Trainer, load_model

Image = pytest.importorskip("PIL.Image", reason="pillow comes with fastgen[train]")
for package in ("tyro", "tqdm", "safetensors"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")

PREPARED = {"image_size": (6, 4), "crop": "centre", "grey": True}
OPTIONS = ["--image-size", "6", "4", "--crop", "centre", "--grey", "--flip"]
TINY = ["--latent", "2", "--hidden", "4", "--samples", "0", "--batch-size", "8", "--epochs"]


def photos(folder: Path, seed: int = 0) -> Path:
    """Two classes of photos of several sizes, twelve of each."""
    rng = np.random.default_rng(seed)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for index in range(12):
            image = rng.integers(0, 256, (*rng.integers(8, 14, 2), 3), dtype=np.uint8)
            Image.fromarray(image).save(folder / name / f"{index:02}.png")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of one epoch, and its photos; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("photos")
    data = photos(folder / "data")
    assert main(["train", "vae", "--data", str(data), "--run", str(folder / "run"), *OPTIONS, *TINY, "1"]) == 0
    return folder / "run", data


def test_what_is_done_to_images_is_kept_and_done_again(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = trained
    config = json.loads((run / "config.json").read_text())
    note = "training mirrors images left to right at random; held-out ones stay as they are"
    assert note in load_images(Run(run), "train", own=True).notes[-1]
    assert config["data"]["shape"] == [1, 6, 4]
    assert {name: config["options"][name] for name in PREPARED} == {**PREPARED, "image_size": [6, 4]}
    own = {split: load_images(Run(run), split, own=True) for split in ("train", "valid", "test")}
    fit, watched = load_for_training(data, **PREPARED)
    wanted = {"train": fit, "valid": watched, "test": load(data, split="test", **PREPARED)}
    assert all(torch.equal(own[split].values, wanted[split].values) for split in own)
    other = photos(tmp_path / "other", seed=1)
    expected = {"train": load_for_training(other, **PREPARED)[0], "test": load(other, split="test", **PREPARED)}
    for split, images in expected.items():
        assert torch.equal(load_images(Run(run), split, str(other)).values, images.values)
    for command in (
        ["evaluate", run],
        ["evaluate", run, "--data", other],
        ["explore", run, "samples", "nearest"],
        ["report", run],
    ):
        assert main([str(word) for word in command]) == 0
    assert "cropped to the centre, resized to height 6 and width 4, grey" in capsys.readouterr().out
    options = MODELS["vae"](image_size=(8,), crop="center")
    assert (options.image_size, options.crop) == ((8, 8), "centre"), "one way of saying it, for --resume to compare"
    moved = shutil.copytree(data, tmp_path / "moved")
    resume = ["train", "vae", "--run", str(shutil.copytree(run, tmp_path / "run")), "--resume"]
    for option in (["--image-size", "8"], ["--crop", "none"], ["--no-grey"], ["--no-flip"]):
        name = option[0].removeprefix("--no-").removeprefix("--").replace("-", "_")
        assert f"{name}: expected" in refused(capsys, *resume, *option)
    assert main([*resume, "--data", str(moved), "--epochs", "2"]) == 0
    assert main(["train", "vae", "--data", str(data), "--run", str(tmp_path / "unbroken"), *OPTIONS, *TINY, "2"]) == 0
    one, two = (load_model(tmp_path / name, "last").state_dict() for name in ("run", "unbroken"))
    assert all(torch.equal(tensor, two[key]) for key, tensor in one.items())
    assert "--image-size" in refused(capsys, "train", "vae", "--data", data, "--run", tmp_path / "none", *TINY, "1")


def test_a_classifier_prepares_images_as_its_source_did(trained: tuple[Path, Path], tmp_path: Path) -> None:
    run, _ = trained
    other = photos(tmp_path / "other", seed=2)
    for data in ([], ["--data", str(other)]):
        new = tmp_path / f"classifier{len(data)}"
        command = ["train", "classifier", "--from", str(run), "--epochs", "1", "--run", str(new), *data]
        assert main(command) == 0
        config = json.loads((new / "config.json").read_text())
        assert {name: config["options"][name] for name in PREPARED} == {**PREPARED, "image_size": [6, 4]}
        assert main(["evaluate", str(new)]) == 0


def test_runs_of_older_versions_kept_nothing_of_it(trained: tuple[Path, Path], tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained[0], tmp_path / "run"))
    config = json.loads((run / "config.json").read_text())
    for name in (*PREPARED, "flip"):
        del config["options"][name]
    x = np.random.default_rng(0).integers(0, 256, (20, 6, 4), dtype=np.uint8)
    np.save(tmp_path / "x.npy", x)
    (run / "config.json").write_text(json.dumps(config))
    assert load_images(Run(run), "test", str(tmp_path / "x.npy")).shape == (1, 6, 4)


class Seen(tiny.Tiny):
    """Keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def losses(self, values: torch.Tensor, *arguments: Any) -> dict[str, torch.Tensor]:
        if self.training:
            self.seen.append(values)
        else:
            assert torch.equal(values.cpu(), HELD_OUT.values.long())
        return super().losses(values, *arguments)


IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (40, 1, 4, 4), dtype=np.uint8))
HELD_OUT = Dataset(IMAGES[:8], None, 3, None, "held out")


def test_training_images_are_mirrored_by_seed_and_epoch() -> None:
    recipe = Recipe(epochs=2, batch_size=16, seed=3, flip=True)
    model = Seen()
    Trainer(model, recipe).fit(Dataset(IMAGES, None, 3, None, "images"), HELD_OUT)
    seen = torch.cat(model.seen).view(2, 40, 1, 4, 4)
    for epoch in range(2):
        order = np.random.default_rng([3, epoch]).permutation(40)
        mirrored = recipe.mirrored(epoch, 40)
        assert 5 < mirrored.sum() < 35
        wanted = [IMAGES[i].flip(-1) if mirrored[i] else IMAGES[i] for i in order]
        assert torch.equal(seen[epoch], torch.stack(wanted).long())
    assert (recipe.mirrored(0, 40) != recipe.mirrored(1, 40)).any()
    assert (recipe.mirrored(0, 40) != Recipe(seed=4, flip=True).mirrored(0, 40)).any()
    assert Recipe().mirrored(0, 40) is None
    with pytest.raises(ValueError, match="flip: expected True or False, got 'yes'"):
        Recipe(flip="yes")
