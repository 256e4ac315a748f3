"""Images to bits and back: a range coder that takes every value by its exact probability, given the ones before it."""

from __future__ import annotations

import hashlib
import platform
import zlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .. import conditions
from .._checks import check_instance, check_values
from .._extras import require
from .._philox import uniforms
from .._version import __version__
from ..conditions import AnyCondition, Classes, Condition, Kinds, Labels, as_condition, as_labels, told
from ..data.storage import dtype_of
from ..ops.value_frequencies import value_frequencies
from ..sampling import compile as compile_sampler
from ..sampling.compiled_sampler import eager
from ..sampling.inputs import ToInput
from ..sampling.told import may_be_told
from .container import About, Container, label_bytes

BATCH = 64
"""Images of a stream, at most: a stream costs up to 64 bits of its own, and its images are decoded together."""

_PARAMETERS = 2**26
"""Of all images that are encoded together, at most."""

_FREQUENCIES = 2**22
"""Numbers that are handed to the coder at once, at most."""

_AGREED = ("model", "distribution", "to_input", "weights", "executor", "precision", "instruction_set")
"""What has to be the same before anything is computed."""

Progress = Callable[[int, int], object]

Each = Callable[[Callable[[slice], tuple[bytes, list[int]]], list[slice]], Iterable[tuple[bytes, list[int]]]]
"""As the builtin ``map``: a function applied to all of a list, in order."""


class Decoded(NamedTuple):
    """Images of a file: ``values``, (N, C, H, W), uint8 up to 256 levels, else int32; and ``labels``, int64 (N,)."""

    values: Tensor
    labels: Tensor | None


class Codec:
    """Compresses images without loss, to as many bits as a model's likelihood of them says.

    bits(x) ≤ −log₂ p(x) + D·log₂(2²⁴ / (2²⁴ − L)) + 64 a stream, D values of L levels each

    The encoder walks through given images as a sampler would draw them, the decoder draws them: both compute the same
    parameters to the last bit, from these the same integer frequencies, and hand them to a range coder.

    Args:
        model: any causal one in float32 on the CPU, of ``Bernoulli``, ``Categorical`` or
            ``DiscretizedLogisticMixture``; see ``fastgen.sampling.compile``.
        shape: (C, H, W) of an image.
        distribution: as ``fastgen.sampling.compile`` takes it.
        to_input: as there.
        condition: as there.
        options: of ``fastgen.sampling.CompiledSampler``: ``precision``.

    Raises:
        ValueError: compiled code does not draw from such a model, and parameters would depend on the batch.
        MissingExtraError: ``constriction``, the range coder, is not installed.
    """

    def __init__(
        self,
        model: nn.Module,
        shape: tuple[int, int, int],
        distribution: Any = None,
        to_input: ToInput | None = None,
        *,
        condition: AnyCondition | Kinds | None = None,
        **options: Any,
    ) -> None:
        self._coder = require("constriction", "codec").stream
        self.sampler = compile_sampler(
            model, shape, distribution, to_input, condition=condition, wavefront=False, **options
        )
        if self.sampler.instruction_set is None or not self.sampler.walks:
            raise ValueError(
                "model: expected one that compiled code draws from, in float32 on the CPU, of Bernoulli, Categorical or"
                f" DiscretizedLogisticMixture, got {self.sampler!r}"
            )
        self._is_told = condition is not None or may_be_told(model)
        self._family = self._coder.model.Categorical(perfect=False)

    def __repr__(self) -> str:
        return f"Codec({self.sampler!r})"

    # ---- images to bits

    def encode(
        self,
        values: Tensor,
        labels: Labels | None = None,
        *,
        condition: AnyCondition | None = None,
        progress: Progress | None = None,
        each: Each = map,
    ) -> bytes:
        """A file of images.

        Args:
            values: integers (N, C, H, W) in [0, levels), of one image or more.
            labels: int64 (N,), in [0, 2³²). A model with classes is told them; the file keeps any model's, beside a
                vector or a map that the model is told as well.
            condition: what the model is told that is no class, or is one in place of ``labels``, as
                ``fastgen.sampling.Sampler.sample`` takes it; who decodes has to have it.
            progress: called with how many images are encoded, and N.
            each: applies the encoding of one stream to all of them: another than ``map`` may share them among
                processes, which changes no byte.

        Returns:
            What ``Container.to_bytes`` writes.

        Raises:
            ValueError: a shape, value, label or condition does not fit; the model's parameters are not finite.
        """
        check_instance("values", values, Tensor, "a tensor")
        N = len(values) if values.dim() else 0
        if N == 0:
            raise ValueError(f"values: expected one image or more, got shape {tuple(values.shape)}")
        given, kept, digest = self._told(N, labels, condition)
        C, H, W = self.sampler.shape
        P = self.sampler.distribution.param_channels(C)
        batch = max(1, min(BATCH, _PARAMETERS // (P * H * W)))

        def encoded(part: slice) -> tuple[bytes, list[int]]:
            some = values[part].to("cpu", torch.int64)
            params = self.sampler.forced(some, condition=conditions.select(given, part))
            stream = self._stream(some, params)
            if progress is not None:
                progress(part.stop, N)
            return stream, self._checks(some)

        found = list(each(encoded, [slice(first, min(first + batch, N)) for first in range(0, N, batch)]))
        checks = np.array([check for _, some in found for check in some], np.uint32)
        about = self._about(given, N, batch, kept, digest)
        return Container(about, checks, kept, [stream for stream, _ in found]).to_bytes()

    def _stream(self, values: Tensor, params: Tensor) -> bytes:
        """Values (N, C, H, W) in the order of the walk, the images' side by side."""
        encoder = self._coder.queue.RangeEncoder()
        N, C, H, W = values.shape
        columns = max(1, _FREQUENCIES // (N * C * self._levels))
        for r in range(H):
            for c in range(0, W, columns):
                pixels = values[:, :, r, c : c + columns].permute(2, 0, 1)  # (columns, N, C)
                at = params[:, :, r, c : c + columns].permute(2, 0, 1)  # (columns, N, P)
                each = [self._frequencies(at.flatten(0, 1), pixels.flatten(0, 1), k) for k in range(C)]
                ordered = torch.stack([one.view(*pixels.shape[:2], -1) for one in each], 1)  # (columns, C, N, levels)
                symbols = pixels.transpose(1, 2).flatten().int().numpy()
                encoder.encode(symbols, self._family, _weights(ordered.flatten(0, 2)))
        return encoder.get_compressed().astype("<u4").tobytes()

    # ---- bits to images

    def decode(
        self, data: bytes | Container, *, condition: AnyCondition | None = None, progress: Progress | None = None
    ) -> Decoded:
        """The images of a file.

        Args:
            data: what ``encode`` returned; or that, read by ``Container.from_bytes``.
            condition: as ``encode`` was given it.
            progress: called with how many images are decoded, and N.

        Raises:
            TypeError: ``data`` are no bytes.
            ValueError: it is no such file, or corrupted; it was encoded with another model, other weights, or on a
                machine that computes other bits. Says what was expected and what came.
        """
        file = data if isinstance(data, Container) else Container.from_bytes(data)
        about, labels = file.about, file.labels
        self._check(about, ("shape", "levels", *_AGREED), self._about(None, 1, 1, None, "", arithmetic=False))
        if about.batch > BATCH:
            raise ValueError(f"file: expected at most {BATCH} images in a stream, got {about.batch}")
        given, kept, digest = self._told(about.images, labels, condition)
        self._check(about, ("condition", "arithmetic"), self._about(given, 1, 1, kept, digest))
        parts = []
        for index, stream in enumerate(file.streams):
            part = slice(index * about.batch, min((index + 1) * about.batch, about.images))
            values = self._drawn(stream, part.stop - part.start, conditions.select(given, part))
            for image, (got, expected) in enumerate(zip(self._checks(values), file.checks[part].tolist(), strict=True)):
                if got != expected:
                    raise ValueError(
                        f"image {part.start + image}: expected CRC {expected:08x}, as it was encoded, got {got:08x}"
                    )
            parts.append(values.to(dtype_of(about.levels)))
            if progress is not None:
                progress(part.stop, about.images)
        return Decoded(torch.cat(parts), labels)

    def _drawn(self, stream: bytes, n: int, given: Condition | None) -> Tensor:
        """The images of one stream."""
        if len(stream) % 4:
            raise ValueError(f"stream: expected whole words of 4 bytes, got {len(stream)} bytes")
        decoder = self._coder.queue.RangeDecoder(np.frombuffer(stream, "<u4").astype(np.uint32))

        def choose(params: Tensor, pixel: Tensor, k: int, r: int, c: int) -> Tensor:
            frequencies = self._frequencies(params, pixel.flatten(1), k, of_color=True)
            try:
                return torch.from_numpy(decoder.decode(self._family, _weights(frequencies))).long()
            except AssertionError:  # what constriction raises where no encoder has written such a stream
                raise ValueError(
                    f"stream: expected one of these frequencies, got others at row {r}, column {c}: it is corrupted"
                ) from None

        values = self.sampler.walk(choose, n, condition=given)
        if not decoder.maybe_exhausted():
            raise ValueError("stream: expected its end with the last value, got more: it is corrupted")
        return values

    # ---- what both ends have to agree on

    @property
    def _levels(self) -> int:
        return int(self.sampler.distribution.levels)

    def _frequencies(self, params: Tensor, pixels: Tensor, k: int, of_color: bool = False) -> Tensor:
        """Int32 (M, levels) of colour ``k``, by the parameters (M, P) of M pixels (M, C), or by those ``of_color``."""
        law, C = self.sampler.distribution, self.sampler.shape[0]
        if law.couples_colors:
            return value_frequencies(params, self._levels, pixels, k, law.components)
        return value_frequencies(params if of_color else params.unflatten(1, (C, -1))[:, k], self._levels)

    def _told(
        self, n: int, labels: Labels | None, condition: AnyCondition | None
    ) -> tuple[Condition | None, Tensor | None, str]:
        """What the model is told of ``n`` images; their labels, which a file keeps; and a digest of what it does not.

        Labels are told where a condition is a class, as samplers tell them.
        """
        kind, stored = self.sampler.condition_kind, None
        if labels is not None:
            stored = as_labels(labels, n).cpu()
            check_values(stored, 2**32, "labels")
            if not isinstance(kind, Classes) or not (self._is_told or condition is not None):
                labels = None  # which are kept, and not told
        name, given = told(labels, condition, kind)
        if given is None:
            return None, stored, ""
        given = as_condition(given, n, kind, name=name)
        return given, stored, _digest(conditions.named(given)) if labels is None else ""

    def _checks(self, values: Tensor) -> list[int]:
        dtype = {1: "<u1", 2: "<u2"}[1 if self._levels <= 256 else 2]
        return [zlib.crc32(image.astype(dtype).tobytes()) for image in values.numpy()]

    def _about(
        self,
        given: Condition | None,
        images: int,
        batch: int,
        labels: Tensor | None,
        condition: str,
        arithmetic: bool = True,
    ) -> About:
        """What this codec would write at the head of a file."""
        model = eager(self.sampler.model)
        return About(
            fastgen=__version__,
            model=type(model).__name__,
            distribution=repr(self.sampler.distribution),
            to_input=str(self.sampler.to_input),
            weights=_digest({**dict(model.named_parameters()), **dict(model.named_buffers())}),
            executor="native",
            precision=self.sampler.precision,
            instruction_set=f"{platform.machine()} {self.sampler.instruction_set}",
            arithmetic=self._arithmetic(given) if arithmetic else 0,
            condition=condition,
            shape=self.sampler.shape,
            levels=self._levels,
            images=images,
            batch=batch,
            label_bytes=label_bytes(labels),
        )

    def _arithmetic(self, given: Condition | None) -> int:
        """CRC-32 of all parameters along the way through an image of noise, told what the first image is."""
        noise = (uniforms(0, 1, self.sampler.shape) * self._levels).long()
        params = self.sampler.forced(noise, condition=conditions.select(given, slice(1)))
        return zlib.crc32(params.numpy().tobytes())

    def _check(self, file: About, names: tuple[str, ...], here: About) -> None:
        """Raise unless a file was encoded as this codec encodes."""
        for name in names:
            got, expected = getattr(file, name), getattr(here, name)
            if got != expected:
                why = ", by other arithmetic: another build, library or processor" if name == "arithmetic" else ""
                raise ValueError(
                    f"{name}: expected {expected!r}, which is what decodes here, got {got!r}, which encoded the file"
                    f" (with fastgen {file.fastgen}){why}"
                )


def _weights(frequencies: Tensor) -> np.ndarray:
    """Frequencies as constriction takes them: it makes integers of these numbers that are the frequencies themselves.

    It gives each value 1 of 2²⁴ and shares out the rest by what it is told: by f − 1, whose sum is the rest.
    """
    return (frequencies - 1).double().numpy()


def _digest(tensors: dict[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        tensor = tensor.detach().cpu().contiguous()
        found.update(f"{name!r} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return found.hexdigest()
