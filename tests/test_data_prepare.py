"""Images cropped, resized and made grey: what Pillow makes of each, from folders, arrays and named sets alike."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastgen.data import load, load_for_training
from fastgen.data.prepare import Preparation, luma

Image = pytest.importorskip("PIL.Image", reason="pillow comes with fastgen[train]")

RNG = np.random.default_rng(0)
SIZES = [(40, 30), (31, 64), (20, 20), (50, 33)]
"""(H, W) of photos."""
PHOTOS = [RNG.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in SIZES]


def photos(folder: Path, images: list[np.ndarray] = PHOTOS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index}.png")
    return folder


def same(found: Any, wanted: list[np.ndarray]) -> bool:
    """Whether the splits of a data set hold these images (H, W) or (H, W, 3), in whatever order."""
    read = torch.cat([part.values for part in found]).numpy()
    first = [np.atleast_3d(image).transpose(2, 0, 1) for image in wanted]
    return sorted(map(bytes, read)) == sorted(bytes(np.ascontiguousarray(image)) for image in first)


def splits(path: Path | str, **options: Any) -> list[Any]:
    return [load(path, split=split, **options) for split in ("train", "test")]


CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "stretched": ({"image_size": 16}, lambda image: image.resize((16, 16), Image.Resampling.LANCZOS)),
    "not square": ({"image_size": (12, 20)}, lambda image: image.resize((20, 12), Image.Resampling.LANCZOS)),
    "pixels": ({"crop": 18}, lambda image: image.crop(middle(image, 18, 18))),
    "pixels, then size": (
        {"crop": "20", "image_size": [8]},
        lambda image: image.crop(middle(image, 20, 20)).resize((8, 8), Image.Resampling.LANCZOS),
    ),
    "centre": (
        {"crop": "centre", "image_size": 16},
        lambda image: image.crop(middle(image, min(image.size), min(image.size))).resize(
            (16, 16), Image.Resampling.LANCZOS
        ),
    ),
    "grey": (
        {"crop": "center", "image_size": 16, "grey": True},
        lambda image: (
            image.crop(middle(image, min(image.size), min(image.size)))
            .resize((16, 16), Image.Resampling.LANCZOS)
            .convert("L")
        ),
    ),
}


def middle(image: Any, width: int, height: int) -> tuple[int, int, int, int]:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return left, top, left + width, top + height


@pytest.mark.parametrize("case", CASES)
def test_photos_of_several_sizes_become_what_pillow_makes_of_each(tmp_path: Path, case: str) -> None:
    options, by_pillow = CASES[case]
    path = photos(tmp_path / "photos")
    wanted = [np.asarray(by_pillow(Image.fromarray(photo))) for photo in PHOTOS]
    found = splits(path, **options)
    assert same(found, wanted)
    words = str(Preparation(**options))
    assert found[0].description.endswith(f"no test split of its own; {words}")
    stretched = "; 3 stretched to that shape, which --crop centre would keep" * (case == "stretched")
    assert (f"4 images; {words}{stretched}" in found[0].notes[0]) or case == "not square"
    one = RNG.integers(0, 256, (20, 3, 40, 30), dtype=np.uint8)
    np.save(tmp_path / "one.npy", one)
    arrays = [np.asarray(by_pillow(Image.fromarray(image.transpose(1, 2, 0)))) for image in one]
    assert same(splits(tmp_path / "one.npy", **options), arrays)


def test_a_centre_crop_has_the_shape_of_the_size() -> None:
    wide = np.arange(100 * 201, dtype=np.uint32).reshape(100, 201).astype(np.uint8)
    for size, rows, columns in (((10, 10), slice(100), slice(50, 150)), ((10, 40), slice(25, 75), slice(201))):
        kept = Preparation(crop="centre", image_size=size)._box(100, 201, "x")
        assert (wide[kept] == wide[rows, columns]).all()
        assert wide[kept].shape == wide[rows, columns].shape
    square = Preparation(crop="centre").image(wide, 256, "x")
    assert (square == wide[:, 50:150]).all()


def test_without_a_size_photos_say_the_option(tmp_path: Path) -> None:
    path = photos(tmp_path)
    message = "expected a 30x40 RGB image as 0.png is, got a 64x31 RGB image; 3 of 4 images do not fit, .*"
    with pytest.raises(
        ValueError, match=message + "; training with --image-size SIDE, or image_size=SIDE, makes all of"
    ):
        load(path)
    Image.fromarray(PHOTOS[0]).convert("L").save(path / "1.png")
    with pytest.raises(
        ValueError, match=r"1\.png: expected a 16x16 RGB .* got a 16x16 grey image; with --grey, or grey=T"
    ):
        load(path, image_size=16)
    assert load(path, image_size=16, grey=True).shape == (1, 16, 16)
    with pytest.raises(ValueError, match=r"2\.png: expected 25 pixels or more on each side, for the crop, got 20x20"):
        load(path, crop=25, grey=True)


def test_photos_are_never_in_memory_together(tmp_path: Path) -> None:
    large = RNG.integers(0, 256, (400, 400, 3), dtype=np.uint8)
    path = photos(tmp_path, [large] * 20)
    load(path, image_size=8)
    tracemalloc.start()
    try:
        load(path, image_size=8)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * large.nbytes


@pytest.mark.parametrize("levels", [2, 17, 200])
def test_few_levels_stay_few(levels: int) -> None:
    values = RNG.integers(0, levels, (9, 12), dtype=np.uint8)
    top = levels - 1
    wide = np.floor(values * (255 / top) + 0.5).astype(np.uint8)
    resized = np.asarray(Image.fromarray(wide).resize((5, 7), Image.Resampling.LANCZOS))
    found = Preparation((7, 5)).image(values, levels, "x")
    assert (found == np.floor(resized.astype(int) * top / 255 + 0.5)).all()
    flat = np.full((9, 12), top, np.uint8)
    assert (Preparation((7, 5)).image(flat, levels, "x") == top).all()
    assert (luma(np.stack([flat] * 3, axis=2)) == top).all()


def test_named_sets_and_one_bit_pictures(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn comes with fastgen[train]")
    train, held_out = load_for_training("digits", image_size=16, levels=4)
    assert (train.shape, held_out.shape, train.levels, len(train)) == ((1, 16, 16), (1, 16, 16), 4, 1350)
    assert train.notes == ("digits: resized to 16x16",)
    assert held_out.description.endswith("no test split of its own; resized to 16x16")
    assert torch.equal(load("digits", image_size=8).values, load("digits").values), "resized to what it is"
    bits = PHOTOS[2][..., 0] > 99
    for index in range(2):
        Image.fromarray(bits).save(tmp_path / f"{index}.png")
    assert same(splits(tmp_path), [bits, bits])
    assert load(tmp_path).levels == 2
    found = load(tmp_path, image_size=10)
    assert (found.levels, int(found.values.max()), found.shape) == (2, 1, (1, 10, 10))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "image_size: expected an integer of at least 1, got 0|image_size: expected a positive"),
        ({"image_size": (8, 8, 8)}, r"image_size: expected one integer or two of them, got \(8, 8, 8\)"),
        ({"image_size": "8"}, "image_size: expected .* integer, got '8'"),
        ({"image_size": 2**30}, "images that fit into memory"),
        ({"crop": "middle"}, "crop: expected none, centre or a number of pixels, got 'middle'"),
        ({"crop": 0}, "crop: expected none, centre or a number of pixels, got 0"),
        ({"crop": "-3"}, "crop: expected none, centre or a number of pixels, got '-3'"),
        ({"crop": True}, "crop: expected none, centre or a number of pixels, got True"),
        ({"crop": 4, "image_size": (4, 8)}, "crop: expected none or centre, since image_size 4 8 is no square, got 4"),
        ({"crop": 9}, "digits: expected 9 pixels or more on each side, for the crop, got 8x8"),
        ({"grey": "yes"}, "grey: expected True or False, got 'yes'"),
    ],
)
def test_what_cannot_be_done_is_named(options: dict[str, Any], message: str) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn comes with fastgen[train]")
    with pytest.raises(ValueError, match=message):
        load("digits", **options)
