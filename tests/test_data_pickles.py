"""CIFAR-10 python batches: what a real one holds is read; whatever else a file says, nothing of it is called or used.

The hostile files are read in a process of their own, where a crash would show.
"""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastgen.data.formats import read_cifar_python

IMAGES = np.arange(2 * 3072, dtype=np.uint32).astype(np.uint8).reshape(2, 3072)


def opcodes(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


def array_state(state: bytes, dtype: bytes = b"u1") -> bytes:
    """An array as Python 2 wrote it, with ``state`` for __setstate__."""
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    kind = b"cnumpy\ndtype\nU\x02" + dtype + b"K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    return made + b"(K\x01" + state.replace(b"DTYPE", kind) + b"tb"


def batch(data: bytes, labels: bytes) -> bytes:
    return opcodes(b"}(U\x04data", data, b"U\x06labels", labels, b"u")


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_real_batches_are_read(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "data_batch_1"
    whole = {b"data": IMAGES, b"labels": [3, 9], b"batch_label": b"1 of 5", b"filenames": [b"a.png", b"b.png"]}
    for written in (
        whole,
        whole | {b"labels": np.array([3, 9], np.uint8)},
        whole | {b"data": np.asfortranarray(IMAGES)},
    ):
        path.write_bytes(pickle.dumps(written, protocol))
        images, labels = read_cifar_python(path)
        assert (images.reshape(2, 3072) == IMAGES).all()
        assert labels.tolist() == [3, 9]


def test_a_batch_of_python_2_is_read(tmp_path: Path) -> None:
    path = tmp_path / "data_batch_1"
    state = b"K\x01M\x00\x0c\x86DTYPE\x89T\x00\x0c\x00\x00" + IMAGES[1].tobytes()
    path.write_bytes(batch(array_state(state), b"](K\x07e"))
    images, labels = read_cifar_python(path)
    assert (images.reshape(1, 3072) == IMAGES[1:]).all()
    assert labels.tolist() == [7]


class Call:
    """Asks the unpickler to call something."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


class Own(np.ndarray):
    """A class of arrays that is not NumPy's."""


def _subclass() -> np.ndarray:
    return np.zeros((1, 3072), np.uint8).view(Own)


POINTERS = b"A" * 40
PICKLED = {
    "planted pointers": Call(np.ndarray, (5,), np.dtype("O"), POINTERS),
    "planted bytes": Call(np.ndarray, (1, 3072), np.dtype("u1"), b"A" * 3072),
    "strides": Call(np.ndarray, (5,), np.dtype("u1"), POINTERS, 0, (10**9,)),
    "objects": np.array([[1, "a"]], dtype=object),
    "structures": np.zeros(2, dtype=[("a", "O"), ("b", "u1")]),
    "floats": np.zeros((1, 3072)),
    "subclass": Call(_subclass),
    "a class": Own,
    "huge dtype": Call(np.dtype, "V2147483647"),
    "dtype of dtypes": Call(np.dtype, Call(np.dtype, "O")),
    "scalar": np.uint8(3),
    "eval": Call(eval, "1/0"),
    "encode": Call(__import__("_codecs").encode, "a", "rot13"),
}
HUGE = b"\x8a\x06\x00\x00\x00\x00\x00\x01"  # 2**40
RAW = {
    "negative shape": array_state(b"K\x01J\xff\xff\xff\xff\x85DTYPE\x89U\x00"),
    "huge shape": array_state(b"K\x01" + HUGE + HUGE + b"\x86DTYPE\x89U\x03abc"),
    "wrapping shape": array_state(b"K\x01\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x40K\x04\x86DTYPE\x89U\x00"),
    "no bytes": array_state(b"K\x01K\x05\x85DTYPE\x89N"),
    "list of objects": array_state(b"K\x01K\x01\x85DTYPE\x89]Na"),
    "object dtype": array_state(b"K\x01K\x05\x85DTYPE\x89U\x28" + POINTERS, b"O8"),
    "state of a dtype": b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|U\x01O}}JAAAAK\x08K?tb",
    "state of a function": b"cnumpy.core.multiarray\n_reconstruct\nN}U\x0c__defaults__K\x01\x85s\x86b",
    "state of a class": b"cnumpy\nndarray\nN}U\x0c__setstate__Ns\x86b",
    "another class made": b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\x00\x85U\x01b\x87R",
    "made huge": b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + HUGE + b"\x85U\x01b\x87R",
    "never filled": b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R",
    "new object": b"cnumpy\nndarray\nK\x05\x85\x81",
    "memo far away": b"Kar\xff\xff\xff\xff",
    "bytes far longer than the file": b"B\xff\xff\xff\xffabc",
    "a list in itself": b"]q\x00h\x00a",
    "nested": b"]" * 50000 + b"a" * 49999,
    "true": b"](\x88\x88e", "none": b"N", "text": b"U\x03abc", "pairs": b"](K\x01K\x02\x86K\x01K\x02\x86e",
    "floats of labels": b"](G\x3f\xf0\x00\x00\x00\x00\x00\x00G\x7f\xf8\x00\x00\x00\x00\x00\x00e",
    "label 10": b"](K\x01K\x0ae", "label -1": b"](K\x01J\xff\xff\xff\xffe", "three labels": b"](K\x01K\x01K\x01e",
    "label past int64": b"](K\x01\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01e",
}  # fmt: skip

READ_ALL = """
import sys
from pathlib import Path
from fastgen.data.formats import read_cifar_python
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        read_cifar_python(path)
    except ValueError as error:
        message = str(error)
        assert message.startswith(f"{path}: ") and len(message) < 600, message
    else:
        raise SystemExit(f"{path} was read")
    print(path.name, flush=True)
"""


def test_hostile_batches_are_refused(tmp_path: Path) -> None:
    good = array_state(b"K\x02M\x00\x0c\x86DTYPE\x89T\x00\x18\x00\x00" + IMAGES.tobytes())
    for protocol in (0, 2, 4, 5):
        for name, value in PICKLED.items():
            for key in ("data", "labels"):
                written = {"data": IMAGES, "labels": [1, 2]} | {key: value}
                (tmp_path / f"{name} as {key}, protocol {protocol}").write_bytes(pickle.dumps(written, protocol))
    for name, code in RAW.items():
        (tmp_path / f"{name} as data").write_bytes(batch(code, b"](K\x01K\x02e"))
        (tmp_path / f"{name} as labels").write_bytes(batch(good, code))
    (tmp_path / "no dict").write_bytes(opcodes(b"]"))
    (tmp_path / "keys").write_bytes(opcodes(b"}(" + b"".join(b"U\x03%03dN" % i for i in range(1000)) + b"u"))
    (tmp_path / "empty").write_bytes(b"")
    whole = batch(good, b"](K\x01K\x02e")
    for length in (1, 2, 20, 60, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / f"cut {length}").write_bytes(whole[:length])
    command = [sys.executable, "-c", READ_ALL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stdout[-300:]} {done.stderr[-2000:]}"
    assert sorted(done.stdout.splitlines()) == sorted(path.name for path in tmp_path.iterdir())
