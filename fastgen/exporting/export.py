"""``export``: a part of a model as a file, held against the model before it is written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .._checks import check_option
from .._files import check_can_write, write_atomic
from .._version import __version__
from .agreement import Agreement, Reference, wide
from .formats import FORMATS
from .parts import PARTS, Named, Part, dtype_name, parts_of
from .programs import program_of


class Exported(NamedTuple):
    """What was written.

    Attributes:
        path: of the file.
        part: with its inputs and its output.
        folded: how many batch norms are part of the layers before them.
        agreement: how far off it is.
    """

    path: Path
    part: Part
    folded: int
    agreement: Agreement


def export(model: Any, path: str | Path, part: str | None = None, about: Mapping[str, Any] | None = None) -> Exported:
    """Write a part of a trained model as a file that runs without fastgen, for a batch of any size, on a CPU.

    Inputs and output are named: z (N, latent) and labels int64 (N,), if the model has classes → image (N, C, H, W) in
    [0, levels − 1]; values (N, C, H, W) integers in [0, levels) [, labels] → code (N, latent); values → logits
    (N, classes). Labels are those of the model's training; a program looks them up in a table, so that what runs it
    refuses an index that is out of range.

    Args:
        model: of ``fastgen.models``, in any mode, which is left as it is; its part is in eval mode.
        path: ends in .pt2, for ``torch.export.load``, or in .onnx, which takes ``fastgen[onnx]``.
        part: "generator", "decoder", "encoder" or "classifier"; by default the first of these that the model has.
        about: what the file is to say of itself beside the part, its inputs and output: JSON in it, as fastgen.json in
            a .pt2 and as "fastgen" in the metadata of an .onnx.

    Raises:
        ValueError: the model has no such part, or the file does not compute what the model does: it may be off by twice
            what rounding does to torch itself. Nothing is written then.
        MissingExtraError: the packages of ONNX are not installed.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ValueError(f"to: expected a name that ends in {' or '.join(FORMATS)}, got {path}")
    check_can_write("to", path, tuple(FORMATS))
    chosen = choose(model, part)
    FORMATS[path.suffix].check()
    reference = Reference(model, chosen)
    example = reference.examples[-1]
    reference.check(program_of(reference.exact, chosen, wide(example)).exported.module())
    program, folded = program_of(reference.own, chosen, example)
    data, run = FORMATS[path.suffix].write(program, chosen, {**description(model, chosen), **(about or {})})
    agreement = reference.hold(run, path.name)
    write_atomic(path, data)
    return Exported(path, chosen, folded, agreement)


def choose(model: Any, name: str | None) -> Part:
    """The part of ``model`` that is called ``name``, or its first.

    Raises:
        ValueError: it has none that is called so.
    """
    parts = parts_of(model)
    if name is None:
        return next(iter(parts.values()))
    if check_option("part", name, PARTS) not in parts:
        raise ValueError(f"part: expected {' or '.join(parts)}, which {type(model).__name__} has, got {name}")
    return parts[name]


def description(model: Any, part: Part) -> dict[str, Any]:
    """What a file says of itself, for JSON."""

    def told(each: Named) -> dict[str, Any]:
        return {"shape": [*each.shape], "dtype": dtype_name(each.dtype), "what": each.what}

    return {
        "fastgen": __version__,
        "model": type(model).__name__,
        "part": part.name,
        "inputs": {name: told(each) for name, each in part.inputs.items()},
        "outputs": {part.output[0]: told(part.output[1])},
        "levels": model.levels,
        "latent": getattr(model, "latent", None),
        "classes": model.classes,
    }
