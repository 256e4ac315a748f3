"""Pictures and archives that are not what they seem: refused by name, before anything large is allocated."""

import gzip
import io
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastgen.data import load
from fastgen.data.formats import read_idx, read_npz

Image = pytest.importorskip("PIL.Image", reason="pillow comes with fastgen[train]")

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def refused(path: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        load(path)
    assert len(str(raised.value)) < 1000


def test_pictures_of_16_bits_are_refused(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\x00" + bytes(range(24)) for _ in range(4))
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "0.png").write_bytes(png)
    refused(tmp_path, r"0\.png: expected 8 bits in a channel, got 16; convert it, so that the values are scaled")
    (tmp_path / "0.png").write_bytes(b"P6 2 2 65535\n" + bytes(24))
    refused(tmp_path, "expected 8 bits in a channel, got 16")
    tags = [(256, 3, 1, 2), (257, 3, 1, 2), (258, 3, 3, 200), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 210)]
    tags += [(277, 3, 1, 3), (278, 3, 1, 2), (279, 4, 1, 24)]
    tiff = b"II*\x00\x08\x00\x00\x00" + struct.pack("<H", len(tags))
    tiff += b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    (tmp_path / "0.png").write_bytes(tiff.ljust(200, b"\0") + struct.pack("<HHH", 16, 16, 16) + bytes(4 + 24))
    refused(tmp_path, "expected 8 bits in a channel, got 16")
    (tmp_path / "0.png").write_bytes(b"P5 2 1 15\n\x00\x0f")
    (tmp_path / "1.png").write_bytes(b"P5 2 1 255\n\x00\xff")
    assert (
        sorted(load(tmp_path, split=split).values.flatten().tolist() for split in ("train", "test")) == [[0, 255]] * 2
    )


@pytest.mark.parametrize(("name", "kind"), [("x.gif", "GIF"), ("x.tif", "TIFF"), ("x.png", "PNG"), ("x.webp", "WEBP")])
def test_pictures_of_several_frames_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    frames = [Image.fromarray(np.roll(RAMP, 5 * index)) for index in range(3)]
    frames = [frame.convert("RGB") for frame in frames] if kind == "WEBP" else frames
    frames[0].save(tmp_path / name, kind, save_all=True, append_images=frames[1:])
    refused(tmp_path, rf"{name}: expected one picture in a file, got 3 frames or pages; save the one that is meant")


def test_transparent_colours_are_refused(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "x.png", transparency=7)
    refused(tmp_path, r"x\.png: expected an opaque image, got one with a transparent colour")


def test_palettes_of_gif_are_their_colours(tmp_path: Path) -> None:
    few = np.where(RAMP > 99, 200, 30).astype(np.uint8)
    color = np.stack([few, 255 - few, few], axis=2)
    for folder, image in (("grey", few), ("color", color)):
        (tmp_path / folder).mkdir()
        for index in range(2):
            Image.fromarray(image).save(tmp_path / folder / f"{index}.gif")
        found = load(tmp_path / folder).values[0].numpy()
        assert (found == np.atleast_3d(image).transpose(2, 0, 1)).all()


def test_no_other_format_is_opened(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n")
    code = f"""
import subprocess, sys
from fastgen.data import load
def started(*arguments, **_):
    raise SystemExit("a program was started")
subprocess.check_call = subprocess.Popen = subprocess.run = started
try:
    load({str(tmp_path)!r})
except ValueError as error:
    assert "0.png: cannot be read as an image" in str(error)
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "refused\n", done.stderr
    for kind in ("TGA", "PCX", "ICO", "SGI"):
        Image.fromarray(RAMP).save(tmp_path / "0.png", kind)
        refused(tmp_path, r"0\.png: cannot be read as an image")


def test_no_more_is_unpacked_than_a_header_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x04" + bytes(2**24)))
    taken = []
    read = gzip.GzipFile.read

    def counted(file: gzip.GzipFile, size: int | None = -1) -> bytes:
        data = read(file, size)
        taken.append(len(data))
        return data

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    with pytest.raises(ValueError, match=r"expected 12 bytes for the shape \(4,\) in its header, got more"):
        read_idx(path)
    assert 0 < sum(taken) < 2000
    path.write_bytes(gzip.compress(b"\x00\x00\x08\x03" + b"\xff\xff\xff\xff" * 3 + bytes(2000)))
    with pytest.raises(ValueError, match=r"expected images that fit into memory, got more than any machine has"):
        read_idx(path)
    sixteen = b"\x00\x00\x08\x10" + b"\x00\x01\x00\x00" * 16  # wraps to 0 in 64 bits
    path.write_bytes(gzip.compress(sixteen + bytes(2000)))
    with pytest.raises(ValueError, match=r"expected images that fit into memory"):
        read_idx(path)


def test_idx_labels_are_ten_classes(tmp_path: Path) -> None:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    (folder / "train-images-idx3-ubyte").write_bytes(b"\x00\x00\x08\x03" + b"\x00\x00\x00\x02" * 3 + bytes(8))
    (folder / "train-labels-idx1-ubyte").write_bytes(b"\x00\x00\x08\x01\x00\x00\x00\x02\x03\x0a")
    with pytest.raises(ValueError, match="train-labels-idx1-ubyte: expected labels 0 to 9, got 3 to 10"):
        load("mnist", root=tmp_path)


def npy(shape: tuple[int, ...], descr: str = "|u1", data: bytes = b"") -> bytes:
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


HEADERS: dict[str, tuple[bytes, str]] = {
    "huge": (npy((2**40, 28, 28)), "expected 862017116176384 bytes for uint8"),
    "wrapping": (npy((2**32, 2**32)), "expected 18446744073709551616 bytes"),
    "negative": (npy((-1, 4, 4), data=bytes(16)), "bytes for uint8"),
    "short": (npy((2, 4, 4), data=bytes(31)), r"expected 32 bytes for uint8 \(2, 4, 4\), got 31"),
    "long": (npy((2, 4, 4), data=bytes(33)), r"expected 32 bytes for uint8 \(2, 4, 4\), got 33"),
    "objects": (npy((2, 4, 4), "|O", bytes(256)), "expected numbers or words, got object"),
    "structures": (npy((2, 4, 4), "|V16", bytes(512)), r"expected numbers or words, got"),
    "nested": (b"\x93NUMPY\x02\x00\x10\x27\x00\x00" + b"(" * 10000, "cannot be read as a NumPy file"),
    "no dtype": (npy((2,), "x" * 40), "cannot be read as a NumPy file"),
    "version 3": (b"\x93NUMPY\x03\x00" + bytes(40), r"expected the format 1\.0 or 2\.0, got 3\.0"),
    "pickle": (b"\x80\x04]q\x00.", "cannot be read as a NumPy file"),
    "empty": (b"", "cannot be read as a NumPy file"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_array_headers_are_held_against_the_file(tmp_path: Path, name: str) -> None:
    data, message = HEADERS[name]
    (tmp_path / "x.npy").write_bytes(data)
    refused(tmp_path / "x.npy", rf"x\.npy: cannot be read as a NumPy file: .*{message}|{message}")
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", data)
    refused(tmp_path / "x.npz", rf"x\.npz: cannot be read as a NumPy file: .*{message}|{message}")


def test_only_the_arrays_that_are_meant_are_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.npz"
    np.savez_compressed(path, x=np.stack([RAMP] * 4), bomb=np.zeros(2**22, np.uint8))
    monkeypatch.setattr("fastgen.data._memory.available", lambda: 2**20)
    images = load(path)
    assert (images.values[0, 0].numpy() == RAMP).all()
    assert images.notes == (f"{path}: 1 arrays skipped: bomb",)
    np.savez_compressed(path, x=np.zeros(2**22, np.uint8))
    refused(
        path, r"x\.npz: expected images that fit into memory, got 4 MiB, and as much for a copy, where 1 MiB are free"
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", npy((2, 4, 4), data=bytes(32)))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("x.npy", npy((2, 4, 4), data=bytes(range(32))))
    refused(path, "two arrays have the same name")
    buffer = io.BytesIO()
    np.save(buffer, np.asfortranarray(np.stack([RAMP] * 4)))
    (tmp_path / "f.npy").write_bytes(buffer.getvalue())
    found = read_npz(tmp_path / "f.npy")["x"]
    assert (found == RAMP).all()
    assert found.flags.writeable


X = np.stack([RAMP] * 20)
FEW = np.arange(20) % 5


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X, "y": FEW + 10**9}, "expected the numbers of classes in y, from 0 to 99999, got 1000000004"),
        ({"x": X, "y": FEW.astype(np.uint64) + np.uint64(2**63)}, "expected the numbers of classes in y, .* 92233720"),
        ({"x": X, "y": FEW + 1}, r"expected a training image of each class from 0 to 5, .* none of 0; .*classes=6\)"),
        ({"x": X, "y": FEW * 2}, "each class from 0 to 8, the highest label, got none of 1, 3, 5, 7"),
        ({"x": X, "y": FEW, "classes": 4}, "expected labels below 4, its classes, got 4"),
        ({"x": X, "y": FEW, "classes": 2.5}, "expected classes to be one integer"),
        ({"x": X, "y": FEW, "class_names": list("abcd")}, "expected labels below 4, its classes, got 4"),
        ({"x": X, "y": FEW, "classes": 5, "class_names": list("abcd")}, "expected 5 class_names, .* got 4"),
        ({"x": X, "y": FEW, "class_names": list("abcda")}, "expected class_names to be different words"),
        ({"train": X, "test": X, "train_labels": FEW, "test_labels": FEW + 1}, "none of 5"),
        ({"train": X, "test": X, "test_labels": FEW}, "expected train_labels beside test_labels, got none"),
        ({"train": X, "test": X > 9}, "expected bool images in all splits, or in none, got both"),
        ({"train": X, "test": X[:, 2:]}, r"expected images of one size in all splits, got \(14, 16\), \(16, 16\)"),
        ({"train": X, "test": X + 0.5}, "expected integer images, got float64"),
        ({"train": X, "val": X, "valid": X}, "expected one array of the valid split, got val and valid"),
        ({"train": X, "x": X}, "expected one set of images, or splits; got train beside x"),
        ({"x": X > 9, "levels": 5}, "expected 2 levels of bool images, got 5"),
    ],
)
def test_labels_and_levels_are_judged_over_all_splits(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    refused(tmp_path / "x.npz", rf"x\.npz: .*{message}")


def test_levels_classes_and_names_that_a_file_says(tmp_path: Path) -> None:
    dark = np.minimum(X, 20)
    np.savez(tmp_path / "x.npz", train=X, test=dark, validation=dark)
    assert [load(tmp_path / "x.npz", split=split).levels for split in ("train", "valid", "test")] == [256] * 3
    np.savez(tmp_path / "y.npz", x=X, y=FEW + 1, classes=9)
    assert load(tmp_path / "y.npz").classes == 9
    np.savez(tmp_path / "z.npz", x=X, y=FEW, class_names=list("abcde"))
    assert load(tmp_path / "z.npz").class_names == tuple("abcde")
