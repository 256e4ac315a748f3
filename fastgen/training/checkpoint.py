"""Checkpoints: weights as safetensors, the rest as a dict that loads without running code; never half written.

    checkpoints/last.safetensors       weights, "model." and "ema." before their names
    checkpoints/best.safetensors       the same of the epoch with the best held-out likelihood
    checkpoints/state-<sha256>.pt      optimiser, random numbers, position: torch.load(..., weights_only=True)

The two halves of a checkpoint are one: a .safetensors names its state file in its metadata, and state files are named
after their content, so a new one never replaces one in use. Replacing last.safetensors is the one step that makes a
checkpoint current: killed before it, the old pair stands; killed after it, the new one does, as the best too where it
says so in its metadata, whether or not best.safetensors was written. Copying best.safetensors over last.safetensors
goes back to the best epoch. Digests of both halves are checked on loading.
"""

import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import describe
from .._extras import require
from .._files import remove_temporaries, write_atomic

FORMAT = "fastgen-1"


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, cannot be read, or belongs to another model."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What ``load`` read from ``path``: state dicts by role ("model", "ema"), and the rest if it was asked for."""

    path: Path
    weights: dict[str, dict[str, Tensor]]
    state: dict[str, Any] = field(default_factory=dict)

    def check(self, module: nn.Module, role: str) -> None:
        """The weights of ``role`` are those of ``module`` by name, shape and dtype.

        Raises:
            CheckpointError: they are another model's; the message names a weight that differs.
        """
        found, expected = self.weights.get(role, {}), module.state_dict()
        for key in sorted(expected.keys() | found.keys()):
            got, want = (str(tuple(part[key].shape)) if key in part else "none" for part in (found, expected))
            if got == want:
                got, want = str(found[key].dtype), str(expected[key].dtype)
            if got != want:
                raise CheckpointError(f"{self.path}: holds another model: expected {role}.{key} {want}, got {got}")

    def restore(self, module: nn.Module, role: str) -> None:
        """Load the weights of ``role`` into ``module``.

        Raises:
            CheckpointError: they are another model's; the message names a weight that differs.
        """
        self.check(module, role)
        module.load_state_dict(self.weights.get(role, {}))


def save(
    folder: Path, names: tuple[str, ...], weights: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> None:
    """Write one checkpoint under each of ``names``, then remove states that no checkpoint names any more.

    Args:
        folder: created where it is missing.
        names: for example ("last", "best"); written under the first, the checkpoint is current under all.
        weights: state dicts by role; a role has no dot.
        state: tensors, numbers, strings, and containers of them.

    Raises:
        CheckpointError: it cannot be written (a full disk, say); the message says which checkpoint is good.
    """
    tensors = {
        f"{role}.{key}": tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for role, part in weights.items()
        for key, tensor in part.items()
    }
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    state_name = _state_name(buffer.getvalue())
    metadata = {"format": FORMAT, "state": state_name, "sha256": digest(tensors), "also": " ".join(names[1:])}
    data = require("safetensors.torch").save(tensors, metadata)
    path = folder / state_name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, buffer.getvalue())
        for name in names:
            path = folder / f"{name}.safetensors"
            write_atomic(path, data)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {_reason(error)}; {good(folder)}") from error
    _remove_unused(folder)


def load(folder: Path, name: str = "last", *, with_state: bool = False) -> Checkpoint:
    """Read and verify the weights of a checkpoint and, where asked, the rest.

    Raises:
        CheckpointError: it is missing, truncated or corrupted; the message names the file, what is wrong with it, and
            which checkpoint is good.
    """
    try:
        return _read(_current(folder, name), with_state)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {good(folder)}") from error


def load_state(folder: Path, name: str = "last") -> dict[str, Any]:
    """What a checkpoint holds beside the weights, which are not read.

    Raises:
        CheckpointError: it is missing, truncated or corrupted.
    """
    path = _current(folder, name)
    return _read_state(path.with_name(_read_safetensors(path, with_tensors=False)[0]["state"]))


def mend(folder: Path) -> None:
    """Do what a process that was killed while saving left undone: copies of the last checkpoint, files to remove.

    Raises:
        CheckpointError: a copy cannot be written.
    """
    last = folder / "last.safetensors"
    for name in _also(last):
        _copy(last, folder / f"{name}.safetensors")
    _remove_unused(folder)


def go_back(folder: Path, name: str) -> None:
    """Make the checkpoint ``name`` the last one.

    Raises:
        CheckpointError: it cannot be written.
    """
    _copy(_current(folder, name), folder / "last.safetensors")
    _remove_unused(folder)


def _copy(source: Path, target: Path) -> None:
    try:
        data = source.read_bytes()
        if not target.is_file() or target.read_bytes() != data:
            write_atomic(target, data)
    except OSError as error:
        raise CheckpointError(f"{target}: cannot be written: {_reason(error)}; {good(target.parent)}") from error


def _current(folder: Path, name: str) -> Path:
    """The file that holds a checkpoint: that of the last one, where it was saved under this name too."""
    last = folder / "last.safetensors"
    return last if name in _also(last) else folder / f"{name}.safetensors"


def _also(path: Path) -> list[str]:
    """The other names of a checkpoint; none where it cannot be read."""
    try:
        names = _read_safetensors(path, with_tensors=False)[0].get("also", "").split()
    except CheckpointError:
        return []
    return [name for name in names if name == "best"]


def _read(path: Path, with_state: bool) -> Checkpoint:
    metadata, tensors = _read_safetensors(path, with_tensors=True)
    if metadata["sha256"] != digest(tensors):
        raise CheckpointError(f"{path}: corrupted: its weights are not those that were saved")
    weights: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        role, _, name = key.partition(".")
        weights.setdefault(role, {})[name] = tensor
    return Checkpoint(path, weights, _read_state(path.with_name(metadata["state"])) if with_state else {})


def _read_safetensors(path: Path, with_tensors: bool) -> tuple[dict[str, str], dict[str, Tensor]]:
    safe_open = require("safetensors").safe_open
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()} if with_tensors else {}  # noqa: SIM118
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {_reason(error)}") from error
    except Exception as error:  # safetensors' own, or torch's where a header promises what there is not
        raise CheckpointError(f"{path}: corrupted or truncated: {error}") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path}: expected a checkpoint of fastgen, got another safetensors file")
    if not {"state", "sha256"} <= metadata.keys():
        raise CheckpointError(f"{path}: corrupted: expected state and sha256 in its metadata, got {sorted(metadata)}")
    if not re.fullmatch(r"state-[0-9a-f]{64}\.pt", metadata["state"]):
        raise CheckpointError(
            f"{path}: corrupted: expected the name of a state file, got {describe(metadata['state'])}"
        )
    return metadata, tensors


def _read_state(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {_reason(error)}") from error
    if _state_name(data) != path.name:
        raise CheckpointError(f"{path}: corrupted or truncated: its {len(data)} bytes are not those that were saved")
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's, zipfile's or torch's: it is not what torch.save writes
        said = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: corrupted: {type(error).__name__}: {said}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: corrupted: expected a dict, got {describe(state)}")
    return state


def good(folder: Path) -> str:
    """Say which checkpoints in ``folder`` are whole."""
    whole = []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            _read(path, with_state=True)
            whole.append(path.name)
        except CheckpointError:
            continue
    return f"good in this folder: {', '.join(whole) or 'no checkpoint'}"


def _remove_unused(folder: Path) -> None:
    """Remove what a killed process left, and the states that no checkpoint names; none while one cannot be read."""
    remove_temporaries(folder)
    try:
        used = {_read_safetensors(path, with_tensors=False)[0]["state"] for path in folder.glob("*.safetensors")}
    except CheckpointError:
        return
    for path in folder.glob("state-*.pt"):
        if path.name not in used:
            path.unlink()


def _state_name(data: bytes) -> str:
    return f"state-{hashlib.sha256(data).hexdigest()}.pt"


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of weights on the CPU, by name."""
    found = hashlib.sha256()
    for key, tensor in sorted(tensors.items()):
        found.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
