"""Folders of pictures: by a rule, what is a split, a class, a picture; what is left out is counted, doubt refused."""

import io
import os
from pathlib import Path

import numpy as np
import pytest

from fastgen.data import load, load_for_training

Image = pytest.importorskip("PIL.Image", reason="pillow comes with fastgen[train]")

GREY = np.random.default_rng(0).integers(0, 256, (30, 4, 5), dtype=np.uint8)


def pictures(folder: Path, n: int = 8, first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(GREY[first : first + n]):
        Image.fromarray(image).save(folder / f"{index}.png")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for index, name in enumerate(("bus", "train", "tram")):
        pictures(tmp_path / name, first=8 * index)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "bus" / "8.avif").write_bytes(b"not read")
    train, test = load(tmp_path), load(tmp_path, split="test")
    assert train.class_names == ("bus", "train", "tram")
    assert (train.classes, len(train), len(test)) == (3, 22, 2)
    for part in (train, test):
        for image, label in zip(part.values, part.labels.tolist(), strict=True):
            assert any((image[0].numpy() == wanted).all() for wanted in GREY[8 * label : 8 * label + 8])
    assert train.notes == (f"{tmp_path}: 3 classes: bus, train, tram; 24 images; 2 skipped: notes.txt, bus/8.avif",)


def test_what_systems_leave_behind_is_no_class(tmp_path: Path) -> None:
    pictures(tmp_path / "a", 2)
    pictures(tmp_path / "b", 2)
    wanted = load(tmp_path)
    left = [".ipynb_checkpoints", "@eaDir", "__MACOSX", "lost+found", "#recycle", "$RECYCLE.BIN", ".cache"]
    for name in left:
        pictures(tmp_path / name, 1)
    (tmp_path / "docs").mkdir()
    (tmp_path / "a" / "Thumbs.db").write_bytes(b"")
    (tmp_path / "b" / "._0.png").write_bytes(b"")
    found = load(tmp_path)
    assert found.class_names == wanted.class_names == ("a", "b")
    assert found.labels.tolist() == wanted.labels.tolist()
    assert "10 skipped" in found.notes[0]


@pytest.mark.parametrize("names", [("train", "val"), ("training", "validation", "testing"), ("Train", "valid", "TEST")])
def test_splits_by_all_their_names(tmp_path: Path, names: tuple[str, ...]) -> None:
    for index, name in enumerate(names):
        pictures(tmp_path / name, 3, first=5 * index)
    train, watched = load_for_training(tmp_path)
    assert (train.values[:, 0].numpy() == GREY[:3]).all()
    assert (watched.values[:, 0].numpy() == GREY[5:8]).all()
    assert watched.description == f"the valid split of {tmp_path}"
    assert train.classes is None
    if len(names) == 3:
        assert (load(tmp_path, split="test").values[:, 0].numpy() == GREY[10:13]).all()
    else:
        with pytest.raises(ValueError, match=r"split: expected train, valid for .*, got 'test'"):
            load(tmp_path, split="test")


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train", "val", "valid"), "expected one valid split, got val/ and valid/"),
        (("valid", "test"), "expected a folder train/ beside test/, valid/"),
        (("train", "test", "bus"), "are all splits .* or all classes; got test/, train/ beside bus/"),
        (("train", "dev"), "all classes; got train/ beside dev/"),
        (("train/a", "train/b", "bus"), "all classes; got train/ beside bus/"),
        (("train/a", "test"), r"test: expected subfolders, one per class, as in train/; got none"),
        (("train", "test/a"), r"test: expected the classes \(none\), got a"),
        (("a", "b/old"), "b: expected images in a class, not in folders below it, got old/"),
        (("train", "test", "."), "expected images in its splits, test/, train/; got some beside them, see 0.png"),
    ],
)  # fmt: skip
def test_what_can_be_read_in_two_ways_is_refused(tmp_path: Path, folders: tuple[str, ...], message: str) -> None:
    for name in folders:
        pictures(tmp_path / name, 2)
    with pytest.raises(ValueError, match=message):
        [load(tmp_path, split=split) for split in ("train", "test")]


def test_a_class_whose_files_are_not_read_is_refused(tmp_path: Path) -> None:
    pictures(tmp_path / "bus", 2)
    (tmp_path / "tram").mkdir()
    (tmp_path / "tram" / "0.avif").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"tram: expected images that are read .* got 1 files of which none is: 0\.avif"
    ):
        load(tmp_path)


def test_splits_agree_in_size_and_kind(tmp_path: Path) -> None:
    pictures(tmp_path / "train", 2)
    (tmp_path / "test").mkdir()
    for wrong, got in ((Image.fromarray(GREY[0]).convert("1"), "5x4 1-bit"), (Image.new("RGB", (5, 4)), "5x4 RGB")):
        wrong.save(tmp_path / "test" / "x.png")
        with pytest.raises(ValueError, match=f"expected a 5x4 grey image as 0.png is, got a {got} image"):
            load(tmp_path, split="test")


def test_a_pipe_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path / "a", 2)
    os.mkfifo(tmp_path / "a" / "x.png")
    with pytest.raises(ValueError, match=r"x\.png: expected a picture, got no file"):
        load(tmp_path / "a")
    (tmp_path / "a" / "x.png").unlink()
    (tmp_path / "a" / "y.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match=r"y\.png: expected a picture, got a broken link"):
        load(tmp_path / "a")
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    os.mkfifo(tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte")
    (tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte").write_bytes(b"")
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte: expected a file, got a pipe or a device"):
        load("mnist", root=tmp_path)


def test_images_that_do_not_fit_say_how_much_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path, 30)
    monkeypatch.setattr("fastgen.data._memory.available", lambda: 2 * 30 * 20 - 1)
    message = r"30 images as 0\.png: expected images that fit into memory, got 600 bytes, .* where 1\.171 KiB are free;"
    with pytest.raises(ValueError, match=message + " scale the images down, or take fewer"):
        load(tmp_path)
    monkeypatch.setattr("fastgen.data._memory.available", lambda: 2 * 30 * 20)
    assert len(load(tmp_path)) == 27


def test_messages_stay_short(tmp_path: Path) -> None:
    for index in range(300):
        folder = tmp_path / f"class-{'x' * 100}-{index:03}"
        folder.mkdir()
        Image.new("L", (4, 4 + index % 2)).save(folder / "0.png")
    with pytest.raises(ValueError, match=r"150 of 300 images do not fit, the others are .* and 144 more") as mixed:
        load(tmp_path)
    assert len(str(mixed.value)) < 3000


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff"])
def test_pictures_are_turned_as_their_exif_says(tmp_path: Path, kind: str, orientation: int) -> None:
    upright = np.kron(np.array([[0, 250, 60], [120, 190, 30]], np.uint8), np.ones((16, 16), np.uint8))
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.T,
        6: np.rot90(upright), 7: upright[::-1, ::-1].T, 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"webp": {"lossless": True}, "jpeg": {"quality": 100}}.get(kind, {})
    image = Image.fromarray(np.stack([np.ascontiguousarray(stored)] * 3, axis=2))
    for index in range(2):
        (tmp_path / f"{index}.{kind}").write_bytes(saved(image, kind, exif=exif, **options))
    found = load(tmp_path)
    assert found.shape == (3, 32, 48)
    centres = found.values[0, 0, 8::16, 8::16].int().numpy()
    assert np.abs(centres - upright[8::16, 8::16]).max() <= (2 if kind == "jpeg" else 0), "a block in another's place"
    assert ("2 turned upright" in found.notes[0]) == (orientation > 1)
