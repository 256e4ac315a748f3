"""What docs/data.md does with tables and other collections gives data that are read as they were."""

import io
import pathlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastgen.data import load
from fastgen.data.array_names import names_by_split

Image = pytest.importorskip("PIL.Image", reason="pillow comes with fastgen[train]")

PAGE = (Path(__file__).parent.parent / "docs" / "data.md").read_text()
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 28, 28), dtype=np.uint8)
LABELS = np.arange(40) % 3


def encoded(size: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (*size, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


TABLE = {"image": [{"bytes": encoded((9 + i % 3, 12))} for i in range(40)], "label": LABELS.tolist()}


def given() -> dict[str, Any]:
    """What a reader has before the first block: a table in the folder, and collections in memory."""
    rows = [",".join(map(str, (label, *image.flat))) for image, label in zip(IMAGES, LABELS, strict=True)]
    Path("digits.csv").write_text("\n".join(["label,pixels", *rows]) + "\n")
    pairs = zip(IMAGES, LABELS.tolist(), strict=True)
    rows = [{"image": Image.fromarray(image), "label": label} for image, label in pairs]
    return {"np": np, "pathlib": pathlib, "rows": rows, "table": TABLE}


def test_tables_and_collections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = given()
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.S | re.M):
        exec(compile(block, "data.md", "exec"), names)
    wanted = {(bytes(image), label) for image, label in zip(IMAGES, LABELS.tolist(), strict=True)}
    for name in ("digits.npz", "mnist.npz"):
        both = [load(name, split=split) for split in ("train", "test")]
        found = {
            (bytes(x), y) for part in both for x, y in zip(part.values[:, 0].numpy(), part.labels.tolist(), strict=True)
        }
        assert found == wanted
    photos = load("photos", image_size=8)
    assert (photos.shape, photos.class_names, len(photos)) == ((3, 8, 8), ("0", "1", "2"), 36)
    kept = {path.read_bytes() for path in Path("photos").rglob("*.png")}
    assert kept == {image["bytes"] for image in TABLE["image"]}


def test_every_row_of_the_arrays_table_is_read() -> None:
    """Each is a layout, and its labels are those of its images."""
    rows = re.findall(r"^\| (`.*?`) \| (`.*?) \|.*\|$", PAGE.partition("## Arrays")[2].partition("##")[0], flags=re.M)
    assert len(rows) == 6
    for images, labels in rows:
        names = re.findall("`(.*?)`", images)
        found = names_by_split(Path("x.npz"), [*names, *re.findall("`(.*?)`", labels)])
        assert [part.images for part in found.values()] == names
        assert next(iter(found.values())).labels == re.findall("`(.*?)`", labels)[0]
