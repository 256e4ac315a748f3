"""The lossless codec: what is encoded is decoded, in as many bits as the likelihood says, or else refused."""

import math
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastgen
from fastgen import models
from fastgen.codec import Codec, Container, coder, container
from fastgen.distributions import Bernoulli
from fastgen.models import AutoregressiveModel
from fastgen.nn import MaskedConv2d
from fastgen.ops.value_frequencies import TOTAL, value_frequencies
from fastgen.sampling import CompiledSampler
from fastgen.sampling.precision import Precision
from ops import with_threads

constriction = pytest.importorskip("constriction", reason="it comes with fastgen[codec]")


def model_of(kind: str) -> AutoregressiveModel:
    """A small model with weights large enough that its parameters are far apart."""
    model: Any = {
        "pixelcnn, two levels": lambda: models.PixelCNN(1, 2, channels=8, layers=2),
        "pixelcnn, three colours": lambda: models.PixelCNN(3, 256, channels=6, layers=1),
        "gated pixelcnn, classes": lambda: models.GatedPixelCNN(1, 5, channels=8, layers=2, classes=3),
        "pixelcnn++, grey": lambda: models.PixelCNNPP(1, 256, channels=6, blocks=1, resolutions=2, components=3),
        "pixelcnn++, three colours": lambda: models.PixelCNNPP(3, 256, channels=6, blocks=1, resolutions=2),
    }[kind]()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith(("original0", "weight_g")):
                parameter.normal_(std=1.5 * parameter[0].numel() ** -0.5)
    return model.eval()


SIDES = {"pixelcnn, two levels": (9, 7), "gated pixelcnn, classes": (6, 8)}
KINDS = (
    "pixelcnn, two levels", "pixelcnn, three colours", "gated pixelcnn, classes", "pixelcnn++, grey",
    "pixelcnn++, three colours",
)  # fmt: skip


def setting(kind: str, n: int) -> tuple[AutoregressiveModel, Codec, Tensor, Tensor | None]:
    """A model, its codec, and images: of noise, of its own, and of one value each."""
    model = model_of(kind)
    shape = (model.in_channels, *SIDES.get(kind, (8, 8)))
    values = torch.randint(model.levels, (n, *shape))
    labels = None if model.classes is None else torch.arange(n) % model.classes
    codec = Codec(model, shape)
    values[n // 2 :] = codec.sampler.sample(n - n // 2, seed=0, labels=None if labels is None else labels[n // 2 :])
    values[0], values[-1] = (0, model.levels - 1) if n > 1 else (1, 1)
    return model, codec, values, labels


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_round_trip_within_the_likelihood(kind: str, n: int) -> None:
    model, codec, values, labels = setting(kind, n)
    data = codec.encode(values, labels)
    assert with_threads(2, lambda: codec.encode(values, labels)) == data, "threads change no bit"
    for threads in (1, 2):
        found = with_threads(threads, lambda: codec.decode(data))
        assert torch.equal(found.values, values.to(torch.uint8))
        assert (found.labels is None) == (labels is None)
        assert labels is None or torch.equal(found.labels, labels)
    file = Container.from_bytes(data)
    bits = -float(model.double().log_prob(values, labels).detach().sum()) / math.log(2)
    (stream,) = file.streams
    assert 8 * len(stream) <= 1.005 * bits + 64
    assert 8 * len(stream) >= 0.95 * bits, "values of less than 2⁻²⁴ are cheaper than they should be"


def test_streams_of_images_do_not_depend_on_those_beside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 2 and of 5, and of one: each image is decoded as it is alone."""
    for kind in ("pixelcnn, two levels", "pixelcnn++, three colours"):
        _, codec, values, _ = setting(kind, 5)
        for batch in (2, 1):
            monkeypatch.setattr(coder, "BATCH", batch)
            file = Container.from_bytes(codec.encode(values))
            assert len(file.streams) == -(-5 // batch)
            assert torch.equal(codec.decode(file).values.long(), values)
        alone = [Container.from_bytes(codec.encode(one[None])).streams[0] for one in values]
        assert alone == file.streams
        monkeypatch.setattr(coder, "BATCH", 64)


def look_up(values: Tensor, seen: Tensor, params: Tensor, pixel: Tensor, k: int, r: int, c: int) -> Tensor:
    """A choice that is made already; ``seen`` keeps the parameters."""
    assert torch.equal(pixel[:, :k, 0, 0], values[:, :k, r, c])
    seen[:, k if seen.shape[1] > 1 else 0, :, r, c] = params
    return values[:, k, r, c]


@pytest.mark.parametrize("kind", KINDS)
def test_both_ways_through_an_image_see_the_same_parameters(kind: str) -> None:
    """What the encoder reads, `forced`, is what the decoder reads, `walk`: to the last bit, in any batch."""
    _, codec, values, labels = setting(kind, 5)
    for threads, part in ((1, slice(0, 5)), (2, slice(0, 5)), (1, slice(3, 4))):
        about = None if labels is None else labels[part]
        sampler, some = codec.sampler, values[part]
        seen = sampler.forced(some, about)
        whole = torch.zeros_like(seen).unflatten(1, (1 if sampler.couples_colors else some.shape[1], -1))

        walked = with_threads(threads, partial(sampler.walk, partial(look_up, some, whole), len(some), labels=about))
        assert torch.equal(walked, some)
        assert torch.equal(whole.flatten(1, 2), seen)


def range_decode(words: list[int], frequencies: Tensor) -> list[int]:
    """A range decoder of 64 bits in words of 32 that is told integers, value after value: what a stream means."""
    words, mask, values = [*words, 0, 0], 2**64 - 1, []
    point, at, lower, size = words[0] << 32 | words[1], 2, 0, mask
    for row in frequencies.tolist():
        scale = size // TOTAL
        quantile, below, value = (point - lower & mask) // scale, 0, 0
        while below + row[value] <= quantile:
            below, value = below + row[value], value + 1
        values.append(value)
        lower, size = lower + scale * below & mask, scale * row[value]
        if size < 2**32:
            lower, size = lower << 32 & mask, size << 32
            point, at = (point << 32 | (words[at] if at < len(words) else 0)) & mask, at + 1
    return values


def test_the_coder_takes_the_frequencies_themselves() -> None:
    """Not what it would make of them: a decoder that knows nothing but these integers reads the stream."""
    _, codec, values, _ = setting("pixelcnn, three colours", 1)
    (stream,) = Container.from_bytes(codec.encode(values)).streams
    params = codec.sampler.forced(values)[0].unflatten(0, (3, 256)).permute(2, 3, 0, 1).flatten(0, 2)
    frequencies = value_frequencies(params.contiguous(), 256)
    decoded = range_decode(np.frombuffer(stream, "<u4").tolist(), frequencies)
    assert decoded == values[0].permute(1, 2, 0).flatten().tolist()


def test_images_that_cannot_be_worse_cost_24_bits_a_value() -> None:
    """A model that is sure of other values."""
    model, codec, values, _ = setting("pixelcnn, two levels", 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        list(model.parameters())[-1].fill_(500.0)
    data = codec.encode(torch.zeros_like(values))
    assert torch.equal(codec.decode(data).values, torch.zeros_like(values, dtype=torch.uint8))
    assert 8 * len(Container.from_bytes(data).streams[0]) <= 24 * values.numel() + 64


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_rounded_products_round_trip(precision: Precision) -> None:
    model, codec, values, _ = setting("pixelcnn, two levels", 3)
    rounded = Codec(model, codec.sampler.shape, precision=precision)
    data = rounded.encode(values)
    assert Container.from_bytes(data).about.precision == precision
    assert torch.equal(rounded.decode(data).values, values.to(torch.uint8))
    with pytest.raises(ValueError, match=f"^precision: expected 'float32', .*got '{precision}'"):
        codec.decode(data)


def changed(data: bytes, **about: Any) -> bytes:
    file = Container.from_bytes(data)
    return replace(file, about=replace(file.about, **about)).to_bytes()


def test_what_does_not_match_is_refused_by_name() -> None:
    model, codec, values, _ = setting("pixelcnn, two levels", 3)
    data = codec.encode(values)
    for name, value in {
        "model": "PixelRNN", "distribution": "Categorical(levels=2)", "to_input": "[0, 1]", "weights": "0" * 64,
        "executor": "reference", "precision": "bfloat16", "instruction_set": "x86_64 avx", "arithmetic": 7,
        "condition": "0", "shape": (1, 7, 9), "levels": 3,
    }.items():  # fmt: skip
        with pytest.raises(
            ValueError, match=f"^{name}: expected .* which is what decodes here, got {re.escape(repr(value))}"
        ):
            codec.decode(changed(data, **{name: value}))
    for form in (changed(data, fastgen="7.0"), bytearray(data), memoryview(data)):  # another version may do
        assert torch.equal(codec.decode(form).values.long(), values)
    with pytest.raises(ValueError, match="at most 64 images in a stream, got 65"):
        codec.decode(changed(data, batch=65))
    version = data[:12] + struct.pack("<I", 2) + data[16:]
    with pytest.raises(ValueError, match="expected version 1 of compressed images, got 2"):
        codec.decode(version)
    with pytest.raises(ValueError, match="expected one of compressed images"):
        codec.decode(b"\x89PNG" + data)
    file = Container.from_bytes(data)
    with pytest.raises(ValueError, match="image 1: expected CRC"):
        codec.decode(replace(file, checks=file.checks ^ np.array([0, 1, 0], np.uint32)).to_bytes())
    with torch.no_grad():
        next(model.parameters()).add_(1e-6)
    with pytest.raises(ValueError, match="weights: expected"):
        codec.decode(data)
    for other in (None, "file.fastgen", [1, 2]):
        with pytest.raises(TypeError, match=r"^data: expected the bytes of a file, got"):
            codec.decode(other)


def test_two_hundred_corrupted_files_are_refused() -> None:
    _, codec, values, labels = setting("gated pixelcnn, classes", 3)
    data = codec.encode(values, labels)
    random = np.random.RandomState(0)
    for trial in range(200):
        bad, at = bytearray(data), int(random.randint(len(data)))
        if trial % 4 == 0:
            bad[at] ^= 1 << random.randint(8)
        elif trial % 4 == 1:
            bad = bad[:at]
        elif trial % 4 == 2:
            bad[at : at + 8] = random.bytes(8)
        else:
            bad[at:at] = random.bytes(int(random.randint(1, 9)))
        if bytes(bad) != data:
            with pytest.raises(ValueError, match=r"^file: expected"):
                codec.decode(bytes(bad))


def test_streams_that_nobody_wrote_are_refused() -> None:
    """Whose CRC is right: the range decoder and each image's own see them."""
    _, codec, values, _ = setting("pixelcnn++, grey", 2)
    file, random = Container.from_bytes(codec.encode(values)), np.random.RandomState(0)
    for size in (0, 1, 3, 4, 8, 40, len(file.streams[0]), 4 * len(file.streams[0])):
        with pytest.raises(ValueError, match=r"^stream: expected|^image \d: expected CRC"):
            codec.decode(replace(file, streams=[random.bytes(size)]).to_bytes())


def test_headers_that_nobody_wrote_are_refused() -> None:
    """Whose CRC is right, too: nothing is allocated by a number that the file's size does not bear out."""
    _, codec, values, _ = setting("pixelcnn, two levels", 3)
    file = Container.from_bytes(codec.encode(values))
    for about in ({"images": 2**32 - 1}, {"images": 0}, {"images": 10**30}, {"images": 2}, {"batch": 0}, {"batch": 1},
                  {"label_bytes": 3}, {"label_bytes": 4}, {"shape": (1, 2)}, {"shape": (1, 0, 4)}, {"levels": "two"},
                  {"weights": 5}, {"images": True}):  # fmt: skip
        with pytest.raises(ValueError, match=r"^file: expected"):
            Container.from_bytes(changed_text(file, lambda found, about=about: found | about))
    for made in (lambda _: [], lambda _: {}, lambda found: found | {"more": 1}, lambda _: "[" * 10**5):
        with pytest.raises(ValueError, match=r"^file: expected a header with"):
            Container.from_bytes(changed_text(file, made))


def changed_text(file: Container, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """The file with another JSON object, or text, and the CRC of that."""
    found = change(asdict(file.about))
    text = (found if isinstance(found, str) else container.json.dumps(found)).encode()
    tables = file.checks.tobytes() + b"".join(struct.pack("<II", len(one), zlib.crc32(one)) for one in file.streams)
    header = struct.pack("<I", len(text)) + text + tables
    check = zlib.crc32(header, zlib.crc32(struct.pack("<II", 1, len(header))))
    return container.MAGIC + struct.pack("<III", 1, len(header), check) + header + b"".join(file.streams)


def test_what_cannot_be_encoded_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _, codec, values, _ = setting("pixelcnn, two levels", 2)
    assert torch.equal(codec.decode(codec.encode(values[:1].expand(70, -1, -1, -1))).values[69].long(), values[0])
    for bad in (values[:0], values + 1, values[:, :, :3]):
        with pytest.raises(ValueError, match=r"^values: expected"):
            codec.encode(bad)
    with pytest.raises(ValueError, match="model: expected one that compiled code draws from"):
        Codec(models.PixelCNN(1, 2, channels=4, layers=1).double(), (1, 4, 4))
    with monkeypatch.context() as patch:  # as on a GPU, whose decoder would walk by other arithmetic
        patch.setattr(CompiledSampler, "walks", False)
        with pytest.raises(ValueError, match="model: expected one that compiled code draws from"):
            Codec(models.PixelCNN(1, 2, channels=4, layers=1), (1, 4, 4))
    with pytest.raises(ValueError, match="model: expected finite parameters"):
        Codec(_Infinite(), (1, 4, 4), Bernoulli(), "[0, 1]").encode(torch.zeros(1, 1, 4, 4, dtype=torch.int64))
    assert fastgen.codec.Codec is Codec


class _Infinite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = MaskedConv2d(1, 1, 3, "A")

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) / 0.0
