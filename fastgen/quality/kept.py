"""Where trained feature classifiers are kept, and how they are known again.

    FASTGEN_CACHE, or else XDG_CACHE_HOME/fastgen, or else ~/.cache/fastgen
        features/cnn128-v1-seed0-0123456789abcdef.pt     name, seed, and what the data's digest begins with

A file is read as plain tensors and numbers. It counts only where everything in it is what was written there for these
data: what is anything else is trained again, and said.
"""

import io
import os
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from .._files import write_atomic
from ..training.checkpoint import digest
from .classifier import FeatureClassifier, Identity

FORMAT = "fastgen-features-1"


def cache_folder() -> Path:
    """The folder for what can be made again: FASTGEN_CACHE, or where the system has such folders."""
    if own := os.environ.get("FASTGEN_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastgen"


def place(folder: Path, wanted: Identity) -> Path:
    """Where a classifier is kept."""
    return folder / "features" / f"{wanted.name}-seed{wanted.seed}-{wanted.sha256[:16]}.pt"


def read(path: Path, model: FeatureClassifier, wanted: Identity) -> Identity | None:
    """Give ``model`` the weights that are kept at ``path``.

    Args:
        path: of the file.
        model: the network, with any weights.
        wanted: what is known of it without training.

    Returns:
        Which it is; None where there is none, or where the file is not what was written, which is said on stderr.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        _say(f"{path}: cannot be read: {error.strerror or error}; the feature classifier is trained again")
        return None
    try:
        found, weights = _parsed(data, model, wanted)
    except Exception as error:  # torch's, zipfile's, pickle's, or what is found out here
        said = str(error).partition("\n")[0]
        _say(f"{path}: is not what was kept there ({type(error).__name__}: {said}); the classifier is trained again")
        return None
    model.load_state_dict(weights)
    return found


def write(path: Path, model: FeatureClassifier, identity: Identity) -> None:
    """Keep a classifier; where the folder cannot be written, say so and go on."""
    buffer = io.BytesIO()
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    torch.save({"format": FORMAT, "identity": asdict(identity), "weights": weights}, buffer)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, buffer.getvalue())
    except OSError as error:
        _say(f"{path}: the feature classifier cannot be kept: {error.strerror or error}; it is trained each time")


def _parsed(data: bytes, model: FeatureClassifier, wanted: Identity) -> tuple[Identity, dict[str, Any]]:
    kept = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    if not isinstance(kept, dict) or kept.get("format") != FORMAT:
        raise ValueError(f"expected the format {FORMAT}")
    about, weights = kept.get("identity"), kept.get("weights")
    if not isinstance(about, dict) or not isinstance(weights, dict):
        raise ValueError("expected an identity and weights")
    for field in fields(Identity):
        if type(about.get(field.name)) is not type(getattr(wanted, field.name)):
            raise ValueError(f"expected {field.name} in its identity")
    found = Identity(**{field.name: about[field.name] for field in fields(Identity)})
    for name in ("name", "seed", "epochs", "images", "sha256"):
        if getattr(found, name) != getattr(wanted, name):
            raise ValueError(f"expected {name} {getattr(wanted, name)}, got {getattr(found, name)}")
    expected = {name: (tensor.shape, tensor.dtype) for name, tensor in model.state_dict().items()}
    if {name: (tensor.shape, tensor.dtype) for name, tensor in weights.items()} != expected:
        raise ValueError("expected the weights of this network")
    if digest(weights) != found.weights:
        raise ValueError("expected the weights that were saved")
    return found, weights


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
