"""``fastgen export``: a part of a run's model as a file that runs without fastgen."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from .. import exporting
from .._files import check_can_write
from ..exporting.formats import FORMATS
from ..training import Run, load_model
from . import parse
from .images import class_names
from .run_words import called


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a part of a run's model as a file that runs without fastgen, held against the model first."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    to: Path
    """File to write: .pt2, a torch.export program; or .onnx, which takes fastgen[onnx]. Both read a batch of any size,
    and say in themselves what that is, and what they give."""
    part: Literal["generator", "decoder", "encoder", "classifier"] | None = None
    """generator and decoder: z and labels, if any, to an image; encoder: an image's values to its code; classifier: to
    logits. Default: the first of these that the model has."""
    checkpoint: Literal["best", "last"] = "best"
    """Weights to export; averaged where the run has these."""


def main(arguments: list[str]) -> str:
    """Export as the arguments say."""
    options = parse(Export, "export", arguments)
    check_can_write("to", options.to, tuple(FORMATS))
    model, run = load_model(options.run, options.checkpoint), Run(options.run)
    about = {"run": called(run, options.checkpoint), "checkpoint": options.checkpoint, "class_names": class_names(run)}
    path, part, folded, agreement = exporting.export(model, options.to, options.part, about)
    named = [("reads", name, each) for name, each in part.inputs.items()] + [("gives", *part.output)]
    width = max(len(name) for _, name, _ in named)
    held = f"off by {agreement.off:.1e} at most, {agreement.allowed:.1e} allowed, in batches of "
    return "\n".join(
        [
            f"{path}: {part.name} of {about['run']}; batch norms folded: {folded}",
            *(f"  {way}  {name:{width}}  {each}" for way, name, each in named),
            f"held against the model: {held}{', '.join(map(str, exporting.BATCHES))}",
        ]
    )
