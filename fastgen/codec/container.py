"""The file of compressed images: what it was encoded with, a check of every part, and the streams.

    12 bytes    magic
    u32 u32 u32 version; bytes of the header; CRC-32 of these two numbers and the header
    header      u32 bytes of a JSON object, the object; CRC-32 of each image (N·u32); labels (N·u8, u16 or u32), if any;
                of each stream its bytes and its CRC-32 (u32 u32)
    streams     one after the other, to the end of the file

All numbers are little-endian. A stream holds ``batch`` images, the last one the rest. Whatever bytes are read, the
answer is a ``Container`` or a ``ValueError``; memory that is asked for is no more than the file's size.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import asdict, dataclass, field, fields

import numpy as np
import torch
from torch import Tensor

from .._checks import check_instance

MAGIC = b"\x89fastgen\r\n\x1a\n"
"""As PNG's: not text, and what changes the ends of lines, or strips an eighth bit, is seen at once."""

VERSION = 1

_FIXED = struct.Struct("<III")
_LABELS = (np.uint8, np.uint16, np.uint32)
_U32 = 2**32 - 1


@dataclass(frozen=True)
class About:
    """What images were encoded with, and what they are; a decoder has to be the same in all but ``fastgen``.

    Attributes:
        fastgen: its version.
        model: its class.
        distribution: of a value.
        to_input: what the model reads for a value.
        weights: SHA-256 of its parameters and buffers.
        executor: what evaluated it.
        precision: of its products.
        instruction_set: that these ran on.
        arithmetic: CRC-32 of the parameters that the model gives along a walk through noise: other compilers, libraries
            or processors that compute other bits are found out before a pixel is decoded.
        condition: SHA-256 of what the model was told beside the images and their labels; "" of nothing.
        shape: (C, H, W).
        levels: values are in [0, levels).
        images: how many there are.
        batch: how many of them a stream holds.
        label_bytes: of each image's label; 0 where there are none.
    """

    fastgen: str
    model: str
    distribution: str
    to_input: str
    weights: str
    executor: str
    precision: str
    instruction_set: str
    arithmetic: int
    condition: str
    shape: tuple[int, int, int]
    levels: int
    images: int
    batch: int
    label_bytes: int


@dataclass(frozen=True)
class Container:
    """A file of compressed images, in memory.

    Attributes:
        about: what they were encoded with, and what they are.
        checks: uint32 (N,): CRC-32 of each image.
        labels: int64 (N,), or None.
        streams: range-coded values, ``about.batch`` images each.
    """

    about: About
    checks: np.ndarray
    labels: Tensor | None
    streams: list[bytes] = field(repr=False)

    def to_bytes(self) -> bytes:
        """The file."""
        text = json.dumps(asdict(self.about), separators=(",", ":")).encode()
        parts = [struct.pack("<I", len(text)), text, self.checks.astype("<u4").tobytes()]
        if self.labels is not None:
            parts.append(self.labels.numpy().astype(_label_dtype(self.about.label_bytes)).tobytes())
        parts += [struct.pack("<II", len(stream), zlib.crc32(stream)) for stream in self.streams]
        header = b"".join(parts)
        check = zlib.crc32(header, zlib.crc32(struct.pack("<II", VERSION, len(header))))
        return b"".join([MAGIC, _FIXED.pack(VERSION, len(header), check), header, *self.streams])

    @classmethod
    def from_bytes(cls, data: bytes) -> Container:
        """Read a file.

        Raises:
            TypeError: ``data`` are no bytes.
            ValueError: it is none, of another version, cut off or corrupted; says which.
        """
        data = bytes(check_instance("data", data, (bytes, bytearray, memoryview), "the bytes of a file"))
        start = len(MAGIC) + _FIXED.size
        if data[: len(MAGIC)] != MAGIC:
            raise ValueError(f"file: expected one of compressed images, which begins with {MAGIC!r}, got another")
        if len(data) < start:
            raise ValueError(f"file: expected {start} bytes or more, got {len(data)}: it is cut off")
        version, size, check = _FIXED.unpack_from(data, len(MAGIC))
        if version != VERSION:
            raise ValueError(f"file: expected version {VERSION} of compressed images, got {version}")
        header = data[start : start + size]
        if len(header) < size:
            raise ValueError(f"file: expected a header of {size} bytes, got {len(header)}: it is cut off or corrupted")
        if zlib.crc32(header, zlib.crc32(struct.pack("<II", version, size))) != check:
            raise ValueError("file: expected a header with the CRC that stands before it, got another: it is corrupted")
        reader = _Reader(header)
        about = _about(reader.take(*struct.unpack("<I", reader.take(4))))
        checks = np.frombuffer(reader.take(4 * about.images), "<u4")
        labels = None
        if about.label_bytes:
            stored = np.frombuffer(reader.take(about.label_bytes * about.images), _label_dtype(about.label_bytes))
            labels = torch.from_numpy(stored.astype(np.int64))
        table = reader.take(8 * -(-about.images // about.batch))
        if reader.left:
            raise ValueError(f"file: expected a header that ends with its streams' table, got {reader.left} bytes more")
        rest = _Reader(data[start + size :])
        streams = []
        for index, (length, crc) in enumerate(struct.iter_unpack("<II", table)):
            streams.append(rest.take(length))
            if zlib.crc32(streams[-1]) != crc:
                raise ValueError(f"file: expected stream {index} with the CRC in the header, got another: corrupted")
        if rest.left:
            raise ValueError(f"file: expected {len(data) - rest.left} bytes, as its header says, got {len(data)}")
        return cls(about, checks, labels, streams)


class _Reader:
    """Bytes from the first to the last."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise ValueError(f"file: expected {size} bytes more, got {self.left}: it is cut off or corrupted")
        self.at += size
        return self.data[self.at - size : self.at]


def label_bytes(labels: Tensor | None) -> int:
    """Of each label, as few as will do; 0 of none."""
    if labels is None:
        return 0
    return next(np.dtype(dtype).itemsize for dtype in _LABELS if int(labels.max()) <= np.iinfo(dtype).max)


def _label_dtype(size: int) -> np.dtype:
    return np.dtype(next(dtype for dtype in _LABELS if np.dtype(dtype).itemsize == size)).newbyteorder("<")


def _about(text: bytes) -> About:
    """The JSON object of a header."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"file: expected a header with a JSON object, got none: {type(error).__name__}") from None
    names = {each.name: each.type for each in fields(About)}
    if not isinstance(found, dict) or found.keys() != names.keys():
        raise ValueError(f"file: expected a header with {', '.join(names)}, got others")
    lowest = {"images": 1, "batch": 1, "levels": 2, "arithmetic": 0, "label_bytes": 0}
    shape = found["shape"]
    if not (isinstance(shape, list) and len(shape) == 3 and all(_is_integer(side, 1) for side in shape)):
        raise ValueError("file: expected a header with a shape of three sizes, got another")
    for name, value in found.items():
        if not (name == "shape" or (_is_integer(value, lowest[name]) if name in lowest else isinstance(value, str))):
            raise ValueError(f"file: expected a header with {name}, {names[name]}, got {str(value)[:40]!r}")
    if found["label_bytes"] not in (0, 1, 2, 4):
        raise ValueError(f"file: expected labels of 1, 2 or 4 bytes, got {found['label_bytes']}")
    return About(**{**found, "shape": tuple(shape)})


def _is_integer(value: object, lowest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= _U32
