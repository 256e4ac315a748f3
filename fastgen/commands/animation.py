"""The pictures of a run's epochs as one animation, which shows how what is drawn came to be."""

from pathlib import Path

import numpy as np

from .._extras import require
from ..pictures.animation import save_animation
from ..training import Run

FRAMES = 60
"""Epochs in an animation, at most."""


def animate(run: Run) -> Path | None:
    """Write the run's samples.gif, where pictures of two epochs or more are of one size; else there is none."""
    paths = sorted(path for path in run.samples.glob("epoch-*.png") if path.is_file() and not path.is_symlink())
    out = run.folder / "samples.gif"
    if len(paths) > FRAMES:
        paths = [paths[round(index * (len(paths) - 1) / (FRAMES - 1))] for index in range(FRAMES)]
    frames = [np.asarray(require("PIL.Image").open(path).convert("RGB")) for path in paths]
    frames = [frame for frame in frames if frame.shape == frames[-1].shape]  # other options drew others before
    if len(frames) < 2:
        return None
    save_animation(frames, out)
    return out
