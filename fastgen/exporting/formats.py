"""The formats of a file: how a module becomes its bytes, and how these are run again."""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._extras import require
from .parts import Part

ABOUT = "fastgen.json"
"""What a .pt2 calls the description in it; an .onnx has the same text in its metadata, as "fastgen"."""

Written = tuple[bytes, Callable[..., Tensor]]


class Format(NamedTuple):
    """``write(program, part, about)`` gives the bytes of a file, and what runs them; ``check()``, that it can."""

    write: Callable[[Any, Part, dict[str, Any]], Written]
    check: Callable[[], None]


def _pt2(program: torch.export.ExportedProgram, part: Part, about: dict[str, Any]) -> Written:
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={ABOUT: json.dumps(about, indent=2)})
    loaded = torch.export.load(io.BytesIO(buffer.getvalue())).module()
    return buffer.getvalue(), loaded


def _onnx(program: torch.export.ExportedProgram, part: Part, about: dict[str, Any]) -> Written:
    onnx, runtime = require("onnx", "onnx"), require("onnxruntime", "onnx")
    with _quiet():
        made = torch.onnx.export(
            program, dynamo=True, input_names=[*part.inputs], output_names=[part.output[0]], external_data=False,
            verbose=False, dynamic_shapes=tuple({0: torch.export.Dim("N")} for _ in part.inputs),
        )  # fmt: skip
    assert made is not None  # it is with dynamo=True
    proto = made.model_proto
    onnx.helper.set_model_props(proto, {"fastgen": json.dumps(about)})
    proto.producer_name, proto.doc_string = "fastgen", f"{part.name} of {about.get('run') or about['model']}"
    data = proto.SerializeToString()
    onnx.checker.check_model(proto)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def run(*given: Tensor) -> Tensor:
        named = dict(zip(part.inputs, (each.numpy() for each in given), strict=True))
        return torch.from_numpy(session.run([part.output[0]], named)[0])

    return data, run


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporter tells its own developers: other packages' ops, and names that it still calls."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.filterwarnings("ignore", "# The axis name: N", UserWarning)  # labels have it from z
            yield
    finally:
        log.setLevel(level)


def _check_onnx() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package, "onnx")


FORMATS = {".pt2": Format(_pt2, lambda: None), ".onnx": Format(_onnx, _check_onnx)}
"""By the end of a file's name."""
