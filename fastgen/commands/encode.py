"""``fastgen encode``: the codes of a run's images as a data set, for a prior to be trained on."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro

from .._console import several
from .._files import check_can_write, write_atomic
from ..data.storage import numpy_dtype_of
from ..models import VQVAE
from ..training import Run, load_model
from . import parse, pick_device
from .images import load_images, say_notes
from .run_words import called

BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Encode:
    """Write the codes of a VQ-VAE's images as a data set: maps of integers, and the labels, where there are any."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    out: Path
    """File to write, .npz: train, valid where the run held images out of training, and test, with their labels and
    levels, as fastgen train reads it."""
    checkpoint: Literal["best", "last"] = "best"
    """Weights to encode with."""
    data: str | None = None
    """Where the run's data are now, if they were moved; it is checked that they are the same."""
    data_root: str | None = None
    """Folder of the data set's files; default: the run's, else FASTGEN_DATA."""
    device: str = "auto"
    """cpu, cuda, cuda:1; auto is CUDA where there is one."""


def main(arguments: list[str]) -> str:
    """Encode as the arguments say."""
    options = parse(Encode, "encode", arguments)
    check_can_write("out", options.out, (".npz",), named=True)
    device = pick_device(options.device)
    run = Run(options.run)
    if options.out.resolve() == Path(options.data or run.config()["options"]["data"]).resolve():
        raise ValueError(f"out: expected another file than the run's data, got {options.out}")
    model = load_model(options.run, options.checkpoint, device)
    if not isinstance(model, VQVAE):
        raise ValueError(f"run: expected one of a model whose codes are integers, vqvae, got {type(model).__name__}")
    splits = ["train", *(["valid"] if run.config()["options"]["held_out"] == "valid" else []), "test"]
    arrays: dict[str, Any] = {"levels": np.array(model.codes)}
    said = []
    for split in splits:
        images = load_images(run, split, options.data, options.data_root, own=options.data is not None)
        if split == "train":
            say_notes(images)
        with torch.no_grad():
            codes = torch.cat([model.encode(values).cpu() for values, _ in images.batches(BATCH, device)])
        arrays[split] = codes.numpy().astype(numpy_dtype_of(model.codes))
        said.append(f"{split} {len(images):,}")
        if images.labels is not None:
            arrays |= {f"{split}_labels": images.labels.numpy(), "classes": np.array(images.classes)}
        if images.class_names is not None:
            arrays["class_names"] = np.array(images.class_names)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomic(options.out, buffer.getvalue())
    height, width = model.code_size
    of = several(model.codes, "code")
    return f"{options.out}: {height}x{width} places of {of}, by {called(run, options.checkpoint)}: {', '.join(said)}"
