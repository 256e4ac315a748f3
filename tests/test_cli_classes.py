"""Runs know their classes by name and their images by content: others are refused, moved ones are taken."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from commands import refused
from fastgen import pictures
from fastgen.cli import main
from fastgen.commands.epoch_pictures import draw_epoch, keep_held_out
from fastgen.commands.images import load_images
from fastgen.commands.train import untrained
from fastgen.data import Dataset, load
from fastgen.data.identity import class_number
from fastgen.models import VAE
from fastgen.pictures import sheet as sheets
from fastgen.training import Run, evaluate, load_model
from pictured import find

Image = pytest.importorskip("PIL.Image", reason="pillow comes with fastgen[train]")
for package in ("tyro", "tqdm", "safetensors"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")

NAMES = ("bus", "car", "train", "tram")
TINY = ["--latent", "2", "--hidden", "4", "--samples", "0", "--batch-size", "16"]


def folders(path: Path, names: tuple[str, ...], n: int = 10, shift: int = 0) -> Path:
    """A class is a shade of grey, whatever it is called where."""
    for name in names:
        (path / name).mkdir(parents=True)
        for index in range(n):
            shade = 60 * NAMES.index(name) if name in NAMES else 9
            Image.fromarray(np.full((4, 4), shade + index + shift, np.uint8)).save(path / name / f"{index:02}.png")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A conditional run of one epoch, and its data; tests that change them take a copy."""
    folder = tmp_path_factory.mktemp("classes")
    data = folders(folder / "data", NAMES)
    command = ["train", "vae", "--conditional", "--data", str(data), "--run", str(folder / "run"), "--epochs", "1"]
    assert main([*command, *TINY]) == 0
    return folder / "run", data


@pytest.fixture
def copied(trained: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """A run whose data were moved."""
    run, data = trained
    copy, moved = shutil.copytree(run, tmp_path / "run"), shutil.copytree(data, tmp_path / "moved")
    config = json.loads((copy / "config.json").read_text())
    config["options"]["data"] = str(tmp_path / "gone")
    (copy / "config.json").write_text(json.dumps(config))
    return Path(copy), Path(moved)


def change(run: Path, **content: object) -> None:
    """Change what the run keeps of its data; ``content=None`` makes it a run of an older version."""
    config = json.loads((run / "config.json").read_text())
    if content.get("content", 0) is None:
        del config["content"]
    else:
        config["content"] |= content
    (run / "config.json").write_text(json.dumps(config))


def test_a_run_keeps_its_classes_and_maps_others_by_name(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run, _ = trained
    kept = json.loads((run / "config.json").read_text())["content"]
    assert (kept["classes"], kept["class_names"]) == (4, list(NAMES))
    two = folders(tmp_path / "two", ("car", "tram"))
    images = load_images(Run(run), "train", str(two))
    shades = images.values[:, 0, 0, 0].long() // 60
    assert torch.equal(images.labels, shades), "labels are the run's numbers, 1 and 3, not the folder's 0 and 1"
    assert (images.classes, images.class_names) == (4, NAMES)
    assert main(["evaluate", str(run), "--data", str(two), "--split", "train", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    model = load_model(run)
    by_name, by_number = (
        evaluate(model, replace(images, labels=labels)).numbers()["nats"] for labels in (shades, shades // 2)
    )
    assert found["nats"] == by_name != by_number
    folders(two, ("van",))
    message = refused(capsys, "evaluate", run, "--data", two)
    assert "expected the classes bus, car, train, tram (or 0 to 3), as in the run in" in message
    assert "got the class van too" in message


def test_numbered_labels_are_taken_as_the_run_s_and_said(trained: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, x=np.full((20, 4, 4), 250, np.uint8), y=np.arange(20) % 4)
    images = load_images(Run(trained[0]), "train", str(path))
    assert images.labels.unique().tolist() == [0, 1, 2, 3]
    assert "its labels are numbers, taken as the classes of" in images.notes[-1]
    assert "0 is bus, 1 is car, 2 is train and 1 more" in images.notes[-1]
    np.savez(path, x=np.full((20, 4, 4), 250, np.uint8), y=np.arange(20) % 5)
    with pytest.raises(ValueError, match=r"data: expected classes 0 to 3, as in .*, got labels up to 4"):
        load_images(Run(trained[0]), "train", str(path))


def test_labels_are_given_by_name(trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run, npz = trained[0], tmp_path / "s.npz"
    drawn = []
    for labels in (("tram", "bus"), ("3", "0")):
        command = ["sample", str(run), "--n", "5", "--out", str(tmp_path / "s.png"), "--npz", str(npz), "--labels"]
        assert main([*command, *labels]) == 0
        with np.load(npz) as arrays:
            assert arrays["y"].tolist() == [3, 0, 3, 0, 3]
            assert (int(arrays["classes"]), arrays["class_names"].tolist()) == (4, list(NAMES))
            drawn.append(arrays["x"])
    assert (drawn[0] == drawn[1]).all()
    assert load(npz).class_names == NAMES
    command = ["sample", run, "--out", tmp_path / "s.png", "--labels"]
    for wrong in ("van", "4", "-1"):
        assert "labels: expected the classes bus, car, train, tram (or 0 to 3), got" in refused(capsys, *command, wrong)
    assert class_number("label", "1", ["1", "0"], 2) == 0, "a name before a number"
    assert class_number("label", "1", ["a", "b"], 2) == 1


def test_classes_without_an_image_to_train_on_are_said() -> None:
    images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    data = Dataset(images, torch.tensor([0, 3]), 2, 4, "shades", NAMES)
    assert untrained(data) == ["no image to train on has the class car, train"]
    assert untrained(replace(data, class_names=None)) == ["no image to train on has the class 1, 2"]
    assert untrained(replace(data, labels=torch.tensor([0, 1]), classes=2, class_names=None)) == []


def test_names_stand_above_their_columns(trained: tuple[Path, Path], tmp_path: Path) -> None:
    for n, labels, order in (
        ("8", [], [0, 1, 2, 3]),
        ("2", ["--labels", "tram", "--columns", "2"], [3, 3]),
        ("16", ["--labels", "tram", "bus"], [3, 0, 3, 0]),
    ):
        out, npz = tmp_path / "s.png", tmp_path / "s.npz"
        assert main(["sample", str(trained[0]), "--n", n, "--out", str(out), "--npz", str(npz), *labels]) == 0
        with Image.open(out) as picture, np.load(npz) as arrays:
            pixels, images = np.asarray(picture), pictures.to_rgb(torch.from_numpy(arrays["x"]), 256)
        top, left, scale = find(pixels, images, len(order))
        for column, label in enumerate(order):
            head = pixels[top - 24 : top - 4, left + column * (4 * scale + 2) :][:, : 4 * scale]
            there = np.argwhere((head < 250).any(axis=2))
            wide = np.ptp(there[:, 1]) + 1
            assert wide == pytest.approx(pictures.text_width(NAMES[label], sheets.SMALL), abs=3), "its own name"
            assert there[:, 1].mean() == pytest.approx(4 * scale / 2, abs=4), "in the middle"


def test_few_classes_make_no_tower_of_an_epochs_picture() -> None:
    values, model = torch.zeros(2, 1, 4, 4, dtype=torch.uint8), VAE(latent=2, hidden=(4,), image_size=(4, 4), classes=2)
    picture = draw_epoch(model, Dataset(values, torch.tensor([0, 1]), 256, 2, "two"), 15, 0, "vae on two")
    (drawn,) = model.preview(16, 0, values, None)
    find(picture, pictures.to_rgb(drawn, 256), 4)


def test_moved_data_are_known_again(copied: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run, moved = copied
    assert "gone, which is not there" in refused(capsys, "explore", run, "samples")
    assert main(["explore", str(run), "samples", "nearest", "--data", str(moved)]) == 0
    assert "4 classes: bus, car, train, tram; 40 images" in capsys.readouterr().err
    resume = ["train", "vae", "--run", str(run), "--resume", "--epochs", "2"]
    other = folders(tmp_path / "other", NAMES, shift=1)
    for command in (["explore", run, "samples"], resume):
        message = refused(capsys, *command, "--data", other)
        assert "expected the images that the run in" in message
        assert "got others, though as many and of the same size" in message
    assert main([*resume, "--data", str(moved)]) == 0
    config = json.loads((run / "config.json").read_text())
    assert config["options"]["data"] == str(moved)
    assert main(["evaluate", str(run)]) == 0


def test_changed_data_and_renamed_classes_are_refused(copied: tuple[Path, Path], capsys: pytest.CaptureFixture) -> None:
    run, moved = copied
    resume = ["train", "vae", "--run", str(run), "--resume", "--epochs", "2", "--data", moved]
    (moved / "car").rename(moved / "cab")
    message = refused(capsys, *resume)
    assert "expected the classes bus, car, train, tram (or 0 to 3), as when the run in" in message
    assert "got the classes bus, cab, train, tram (or 0 to 3)" in message
    (moved / "cab").rename(moved / "car")
    shutil.copy(moved / "car" / "00.png", moved / "car" / "01.png")
    assert "expected the images that the run in" in refused(capsys, *resume)
    shutil.copy(moved / "car" / "00.png", moved / "car" / "99.png")
    assert "'train': 32" in refused(capsys, *resume)


def test_runs_of_older_versions_go_on_and_say_what_is_not_checked(
    copied: tuple[Path, Path], capsys: pytest.CaptureFixture
) -> None:
    run, moved = copied
    change(run, content=None)
    images = load_images(Run(run), "train", str(moved), own=True)
    assert images.labels.unique().tolist() == [0, 1, 2, 3]
    assert "keeps no names of classes, as an older version's: numbered as in the data, 0 is bus" in images.notes[-2]
    assert "keeps no digest of its images, as an older version's" in images.notes[-1]
    assert main(["train", "vae", "--run", str(run), "--resume", "--epochs", "2", "--data", str(moved)]) == 0
    assert "keeps no digest" in "".join(capsys.readouterr())
    change(run, content=None)  # a resumed run keeps them from then on
    shutil.rmtree(moved / "tram")
    with pytest.raises(ValueError, match=r"data: expected 4 classes, as in .*, got the classes bus, car, train"):
        load_images(Run(run), "train", str(moved))


def test_a_run_of_numbers_takes_names_that_are_numbers(copied: tuple[Path, Path], tmp_path: Path) -> None:
    run, _ = copied
    change(run, class_names=None)
    for name in ("1", "3"):
        folders(tmp_path / "numbers", (name,))
    images = load_images(Run(run), "train", str(tmp_path / "numbers"))
    assert images.labels.unique().tolist() == [1, 3]
    with pytest.raises(ValueError, match=r"expected classes numbered 0 to 3, as in .*, got the classes bus, car"):
        load_images(Run(run), "train", str(folders(tmp_path / "names", NAMES)))


def test_held_out_images_are_kept_with_their_classes(tmp_path: Path) -> None:
    run = Run(tmp_path).create({"model": {"name": "toy", "config": {}}, "data": {"shape": [1, 4, 4], "levels": 256},
                                "options": {"data": "shades.npz", "held_out": "test"}})  # fmt: skip
    values = torch.randint(256, (6, 1, 4, 4), dtype=torch.uint8)
    data = Dataset(values, torch.tensor([0, 1, 0, 1, 2, 3]), 256, 4, "shades", NAMES)
    for n, classes, order, columns in (
        (4, 4, [0, 1, 4, 5], 4),
        (8, 4, range(6), 6),
        (9, None, range(6), 6),
        (0, 4, None, 0),
        (3, 2, [0, 1, 2, 3], 2),
        (6, 1, range(6), 3),
    ):
        data = data if classes is None or classes == 4 else replace(data, labels=data.labels % classes)
        (tmp_path / "held_out.png").unlink(missing_ok=True)
        keep_held_out(run, data, n, classes)
        if order is None:
            assert not (tmp_path / "held_out.png").exists()
            continue
        with Image.open(tmp_path / "held_out.png") as picture:
            find(np.asarray(picture), pictures.to_rgb(values[list(order)], 256), columns)
    (tmp_path / "held_out.png").write_bytes(b"mine")
    keep_held_out(run, data, 4, 4)
    assert (tmp_path / "held_out.png").read_bytes() == b"mine", "once only"


def test_classes_whose_names_are_numbers_are_those_that_pictures_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The class called 1 is not the one numbered 1; where none is asked for, it is the first, as is said."""
    names, shades = ("3", "1", "0", "2"), [0, 60, 120, 180]
    images = np.repeat(np.array(shades, np.uint8), 12)[:, None, None].repeat(4, 1).repeat(4, 2)
    labels = np.arange(4).repeat(12)
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    np.savez(tmp_path / "data.npz", **arrays, class_names=names)
    drawn: list = []

    def draw(model: object, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, **said: object) -> np.ndarray:
        drawn.append(([int(group.unique()) for group in (a, b, c)], said["called"]))
        return np.zeros((8, 8, 3), np.uint8)

    def manifold(model: object, side: int, dims: object, label: int, **_: object) -> np.ndarray:
        drawn.append(label)
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr("fastgen.exploring.draw_arithmetic", draw)
    monkeypatch.setattr("fastgen.exploring.draw_manifold", manifold)
    for folder, more in (("plain", []), ("conditional", ["--conditional"])):
        command = ["train", "vae", "--data", str(tmp_path / "data.npz"), "--run", str(tmp_path / folder), *TINY, *more]
        assert main([*command, "--epochs", "1"]) == 0
    arithmetic = ["explore", str(tmp_path / "plain"), "arithmetic"]
    assert main(arithmetic) == 0
    assert drawn.pop() == (shades[:3], names[:3])
    assert main([*arithmetic, "--groups", "class=1", "class=3", "class=2"]) == 0
    assert drawn.pop() == ([60, 0, 180], ("1", "3", "2"))
    assert main(["explore", str(tmp_path / "conditional"), "manifold"]) == 0
    assert main(["explore", str(tmp_path / "conditional"), "manifold", "--label", "0"]) == 0
    assert drawn == [0, 2]
