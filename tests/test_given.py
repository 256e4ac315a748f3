"""What of an image is given and what is drawn: nothing is lost, and what cannot be is named."""

import itertools
import re
from typing import Any

import pytest
import torch

from fastgen.data import Dataset, Downsampled, Grey, Subsampled, given_by

EVERY = torch.tensor(list(itertools.product(range(8), repeat=3)), dtype=torch.uint8)
"""All colours of 8 levels."""


def test_luma_and_chroma_are_all_of_a_color() -> None:
    colors = EVERY.view(2, 256, 3, 1).transpose(1, 2)  # two images, 256 x 1
    drawn, given = Grey().split(colors, 8)
    assert (drawn.shape, given.shape, drawn.dtype) == ((2, 2, 256, 1), (2, 1, 256, 1), torch.uint8)
    assert torch.equal(Grey().join(drawn, given, 8), colors)
    assert (int(drawn.min()), int(drawn.max())) == (0, 14), "2·8 − 1 levels"
    assert (given.min().item(), given.max().item()) == (-1, 1)
    assert torch.equal(drawn[:, 0].to(torch.int16) - 7, colors[:, 0].to(torch.int16) - colors[:, 2].to(torch.int16))
    grey = torch.arange(8, dtype=torch.uint8).view(1, 1, 8, 1).expand(1, 3, 8, 1)
    drawn, given = Grey().split(grey, 8)
    assert drawn.unique().tolist() == [7], "grey has no chroma"
    assert torch.equal(((given + 1) * 3.5).round().to(torch.uint8), grey[:, :1]), "and is its luma"


def test_photographs_keep_their_256_levels() -> None:
    colors = torch.randint(256, (2, 3, 30, 30), dtype=torch.uint8)
    drawn, given = Grey().split(colors, 256)
    assert drawn.dtype == torch.int32, "of 511 levels"
    assert torch.equal(Grey().join(drawn, given, 256), colors)


def test_chroma_that_no_color_has_is_cut() -> None:
    drawn, given = torch.tensor([[14, 0], [0, 14]]).view(2, 2, 1, 1), torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)
    joined = Grey().join(drawn, given, 8)
    assert (int(joined.min()), int(joined.max())) == (0, 7)
    assert (Grey().image_levels(15), Grey().drawn_levels(8), Grey().image_shape((2, 4, 6))) == (8, 15, (3, 4, 6))


def test_means_and_pixels_of_squares() -> None:
    values = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6) % 16
    for given, pixels in ((Downsampled(2), None), (Subsampled(2), values[:, :, ::2, ::2])):
        drawn, small = given.split(values, 16)
        assert torch.equal(drawn.long(), values)
        assert torch.equal(given.join(drawn, small, 16), drawn)
        mean = values.double().unflatten(2, (2, 2)).unflatten(4, (3, 2)).mean(dim=(3, 5))
        wanted = mean if pixels is None else pixels.double()
        torch.testing.assert_close(small.double(), wanted * 2 / 15 - 1, check_dtype=False)
        shown = given.shown(small, (4, 6))
        assert torch.equal(shown[:, :, 1::2, 1::2].double(), (wanted * 17).round())


def test_a_data_set_in_two_parts() -> None:
    images = Dataset(EVERY.view(2, 256, 3, 1).transpose(1, 2), None, 8, None, "colours")
    found = Grey().prepare(images)
    assert (found.shape, found.levels, found.description) == ((2, 256, 1), 15, "colours; luma given, chroma drawn")
    assert found.notes == ("colours: luma given, chroma drawn",)
    assert torch.equal(Grey().join(found.values, found.condition, 8), images.values)
    with pytest.raises(ValueError, match="given: expected images without a condition of their own, got colours"):
        Grey().prepare(found)


@pytest.mark.parametrize("words", ["grey", "downsampled:4", "subsampled:2"])
def test_words(words: str) -> None:
    assert str(given_by(words)) == words


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: given_by("gray"), "given: expected grey, downsampled:K or subsampled:K, got 'gray'"),
        (lambda: given_by("grey:2"), "given: expected grey, downsampled:K or subsampled:K, got 'grey:2'"),
        (lambda: given_by("downsampled"), "given: expected grey, downsampled:K or subsampled:K, got 'downsampled'"),
        (lambda: given_by("subsampled:1"), "given: factor: expected an integer of at least 2, got 1"),
        (lambda: Grey().split(EVERY[:, None, None], 8), "expected images of three colours for grey, got images of 1"),
        (lambda: Grey().split(EVERY.view(512, 3, 1, 1), 2**16), "expected at most 32768 levels for grey, got 65536"),
        (
            lambda: Downsampled(4).split(torch.zeros(1, 1, 8, 6, dtype=torch.uint8), 2),
            "given: expected a divisor of the images' 8x6 pixels, got downsampled:4",
        ),
    ],
)
def test_what_cannot_be_given_is_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
