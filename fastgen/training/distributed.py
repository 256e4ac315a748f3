"""Several processes, on one machine or many, as torchrun starts them.

    torchrun --nproc-per-node 2 -m -- fastgen train vae --data mnist --run runs/vae

Every process reads its part of every batch, and their gradients are averaged; a batch norm's statistics are those of
the whole batch, unless ``Recipe.sync_batch_norm`` is off; games draw the noise of an image by its place in the batch.
So the run is that of one process with the same batch size, to rounding, but for what else is random inside the model.
The first process writes; the others wait. The run's folder must be one that all of them see.
"""

import atexit
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


class ElsewhereError(RuntimeError):
    """The first process failed, and says itself what at."""


def size() -> int:
    """Number of processes; 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process; 0 is the one that writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def started() -> bool:
    """Whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def speaks() -> bool:
    """Whether this process is the one that says what is true of all; also before they are joined and afterwards."""
    return not started() or os.environ.get("RANK", "0") == "0"


@contextmanager
def processes(device: torch.device, patience: timedelta | None = None) -> Iterator[None]:
    """Join the other processes that torchrun started, if any: gloo between CPUs, NCCL between GPUs.

    Args:
        device: of this process.
        patience: how long one waits for another before it gives up; by default torch's, some minutes.
    """
    if not started() or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=patience)
    try:
        yield
    finally:
        dist.destroy_process_group()


def leave(code: int) -> NoReturn:
    """End this process with ``code`` when everything is printed and what was registered with ``atexit`` has run.

    gloo's threads may live longer than their group: whoever still holds the group, or a work of it, holds them. Such a
    thread that lets go of its last tensors while the interpreter is being taken down wants the interpreter's lock,
    is ended by it instead, and takes the process along: "terminate called without an active exception", SIGABRT. So a
    process that was one of several is not taken down, but left.
    """
    if started():
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(code)
    sys.exit(code)


def local_device(device: torch.device) -> torch.device:
    """The device of this process: of several on a machine with GPUs, each takes its own."""
    if device.type == "cuda" and device.index is None and started():
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


def gather(value: T) -> list[T]:
    """``value`` of every process, in order, in every process."""
    if size() == 1:
        return [value]
    values: list[Any] = [None] * size()
    dist.all_gather_object(values, value)
    return values


def largest(number: int) -> int:
    """The largest ``number`` of all processes, in every process."""
    if size() == 1:
        return number
    found = torch.tensor(
        number, device=f"cuda:{torch.cuda.current_device()}" if dist.get_backend() == "nccl" else "cpu"
    )
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def mean(sums: Tensor, mine: int, images: int) -> Tensor:
    """The means over a step's ``images`` images in all processes, of whose ``mine`` this process has the ``sums``."""
    total = sums.clone() if mine else torch.zeros_like(sums)
    if size() > 1:
        dist.all_reduce(total)
    return total / images


def share(indices: np.ndarray) -> np.ndarray:
    """The part of a batch that this process reads: parts follow each other, and differ in size by one at most."""
    return indices if size() == 1 else np.array_split(indices, size())[rank()]


def places(images: int) -> torch.Tensor:
    """Which of the ``images`` images of a batch ``share`` gives to this process, int64; of none of them, the first."""
    mine = share(np.arange(images))
    return torch.from_numpy(mine if len(mine) else np.zeros(1, np.int64))


def first_only(action: Callable[[], object]) -> None:
    """Do ``action`` in the first process while the others wait.

    Raises:
        ElsewhereError: in the others, if it failed there; the first raises the error itself.
    """
    failure: Exception | None = None
    if rank() == 0:
        try:
            action()
        except Exception as error:
            failure = error
    if size() > 1:
        said = [None if failure is None else f"{type(failure).__name__}: {failure}"]
        dist.broadcast_object_list(said)
        if rank() and said[0] is not None:
            raise ElsewhereError(f"process {rank()}: stopped, since the first process failed: {said[0]}")
    if failure is not None:
        raise failure


def share_state(module: nn.Module) -> None:
    """Make the parameters and buffers of every process those of the first."""
    if size() > 1:
        for parameter in module.parameters():
            dist.broadcast(parameter.detach(), 0)
    share_buffers(module)


def share_buffers(*modules: nn.Module) -> None:
    """Make the buffers of every process those of the first."""
    if size() > 1:
        for module in modules:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)


def seed_of(seed: int) -> int:
    """What this process seeds its random numbers with: ``seed`` itself in the first, another in each other."""
    return (seed + 0x9E3779B97F4A7C15 * rank()) % 2**63
