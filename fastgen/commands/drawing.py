"""Drawing in batches: shared between processes, written as they are drawn, gone on with where a start was killed."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._extras import require
from ..data.storage import dtype_of
from ..training import distributed
from ..training.lock import Lock
from .array_file import ArrayFile
from .image_folder import ImageFolder
from .unfinished import Unfinished

PATIENCE = timedelta(days=30)
"""How long a process that has drawn its batches waits for those that have not."""

Draw = Callable[[int, int], Tensor]
"""(first, n) → images ``first`` and those after it of ``n``, a batch of them."""


class Drawn(NamedTuple):
    """``values`` of all images where they were to be kept; how many are new, and in how many seconds."""

    values: Tensor | None
    new: int
    seconds: float


def draw_all(
    draw: Draw,
    n: int,
    batch: int,
    out: ImageFolder | ArrayFile | None,
    keep: bool,
    request: dict[str, Any],
    overwrite: bool,
) -> Drawn:
    """Draw ``n`` images in batches that are the same however many processes draw them.

    Args:
        draw: gives a batch.
        n: how many images.
        batch: images in one.
        out: where to write them, if anywhere: then memory does not grow with ``n``.
        keep: give all of them, in every process.
        request: all that decides on the images: whoever goes on with what is there has to have the same.
        overwrite: begin anew.

    Raises:
        ValueError: there is something in the way, or a start that was killed drew other images.
        BlockingIOError: another process draws there.
    """
    if out is None:
        return _draw(draw, n, batch, None, None, keep)
    folder, name = out.hidden
    unfinished = Unfinished(folder / f"{name}.unfinished", request, -(-n // batch))
    lock: list[Lock] = []

    def begin() -> None:
        out.check_place()
        lock.append(Lock(folder, f"{name}.lock", "a place"))
        if overwrite or not unfinished.check() or not out.has(0, 0):
            out.check(overwrite)
            unfinished.end()
            out.begin()
            unfinished.begin()

    def end() -> None:
        out.finish()
        unfinished.end()

    try:
        distributed.first_only(begin)
        drawn = _draw(draw, n, batch, out, unfinished, keep)
        distributed.first_only(end)
    except KeyboardInterrupt:
        there = f"{sum(unfinished.drawn())} of {unfinished.batches} batches" if unfinished.path.is_file() else "nothing"
        raise KeyboardInterrupt(f"{there} drawn; the same command goes on") from None
    finally:
        for held in lock:
            held.release()
    return drawn


def _draw(
    draw: Draw, n: int, batch: int, out: ImageFolder | ArrayFile | None, unfinished: Unfinished | None, keep: bool
) -> Drawn:
    there = b"" if unfinished is None else unfinished.drawn()
    mine = range(distributed.rank() * batch, n, distributed.size() * batch)
    kept, new, seconds = [], 0, 0.0
    quiet = True if n <= batch or distributed.rank() else None
    with require("tqdm").tqdm(total=n, desc="images", leave=False, disable=quiet) as bar:
        for first in mine:
            count = min(batch, n - first)
            if keep or out is None or not there[first // batch] or not out.has(first, first + count):
                started = time.perf_counter()
                values = draw(first, n).cpu()
                seconds, new = seconds + time.perf_counter() - started, new + count
                if out is not None and unfinished is not None:
                    out.write(first, values)
                    unfinished.mark(first // batch)
                if keep:
                    kept.append((first, values.to(dtype_of(int(values.max()) + 1))))
            bar.update(min(count * distributed.size(), n - bar.n))
    others = distributed.gather((kept, new, seconds))
    every = sorted((each for part, _, _ in others for each in part), key=lambda each: each[0])
    whole = torch.cat([values for _, values in every]) if keep else None
    return Drawn(whole, sum(new for _, new, _ in others), max(seconds for _, _, seconds in others))
