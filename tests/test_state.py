"""A state file is compared with what the trainer would write before any of it is loaded: what differs is named."""

import copy
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from fastgen.training import CheckpointError, Run, Trainer
from fastgen.training import checkpoint as checkpoints
from trainers import GAME, RECIPE, assert_same, new_run, trainer

pytest.importorskip("safetensors", reason="safetensors comes with fastgen[train]")
pytest.importorskip("tqdm", reason="tqdm comes with fastgen[train]")

HALF = dataclasses.replace(RECIPE, precision="float16")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> checkpoints.Checkpoint:
    """What a run of one epoch, with a scaler, wrote."""
    run = new_run(tmp_path_factory.mktemp("saved") / "run")
    trainer(run, dataclasses.replace(HALF, epochs=1)).fit(tiny.images(), tiny.images())
    return checkpoints.load(run.checkpoints, with_state=True)


def slots(state: dict) -> dict:
    return state["players"]["model"]["optimizer"]["state"]


def group(state: dict) -> dict:
    return state["players"]["model"]["optimizer"]["param_groups"][0]


def scaler(state: dict) -> dict:
    return state["players"]["model"]["scaler"]


def put(where: Callable[[dict], Any], key: Any, value: Any) -> Callable[[dict], None]:
    def change(state: dict) -> None:
        where(state)[key] = value

    return change


def numpy(index: int, value: Any) -> Callable[[dict], None]:
    def change(state: dict) -> None:
        random = state["processes"][0]["random"]
        random["numpy"] = (*random["numpy"][:index], value, *random["numpy"][index + 1 :])

    return change


def all_averages(state: dict) -> None:
    for slot in slots(state).values():
        slot["exp_avg"] = torch.zeros(2)


DAMAGES: dict[str, tuple[Callable[[dict], Any], str]] = {
    "shape": (all_averages, r"model\.optimizer\.0\.exp_avg: expected a tensor \(1, 6\) of torch\.float32, .* \(2,\)"),
    "dtype": (
        put(lambda s: slots(s)[1], "exp_avg_sq", torch.zeros(48, 6).half()),
        r"1\.exp_avg_sq: expected a tensor \(48, 6\) of torch\.float32, as its parameter is, .*float16",
    ),
    "layout": (put(lambda s: slots(s)[2], "exp_avg", torch.zeros(48).to_sparse()), r"2\.exp_avg: expected a tensor"),
    "device": (put(lambda s: slots(s)[2], "exp_avg", torch.zeros(48, device="meta")), r"2\.exp_avg: expected a tensor"),
    "no tensor": (put(lambda s: slots(s)[2], "exp_avg", [0.0] * 48), r"2\.exp_avg: expected a tensor"),
    "count": (put(lambda s: slots(s)[0], "step", torch.tensor(-1.0)), r"0\.step: expected an integer from 0 to 4"),
    "counts": (put(lambda s: slots(s)[0], "step", torch.tensor(5.0)), r"0\.step: expected an integer from 0 to 4"),
    "half a count": (put(lambda s: slots(s)[0], "step", torch.tensor(0.5)), r"0\.step: expected an integer"),
    "no count": (put(lambda s: slots(s)[0], "step", torch.tensor(math.nan)), r"0\.step: expected an integer"),
    "vector of counts": (put(lambda s: slots(s)[0], "step", torch.zeros(3)), r"0\.step: expected a tensor \(\)"),
    "slot too few": (lambda s: slots(s)[0].pop("exp_avg"), r"model\.optimizer\.0: expected .*exp_avg.*, got"),
    "slot too many": (put(lambda s: slots(s)[0], "more", 1), r"model\.optimizer\.0: expected .*, got .*more"),
    "parameter": (put(slots, 3, {}), r"model\.optimizer: parameter: expected an integer from 0 to 2, got 3"),
    "name": (put(slots, "0", {}), r"model\.optimizer: parameter: expected an integer"),
    "option": (put(group, "weight_decay", 0.5), r"model\.optimizer\.weight_decay: expected 0\.0, got 0\.5"),
    "kernel": (put(group, "fused", None), r"model\.optimizer\.fused: expected True, got None"),
    "betas": (put(group, "betas", (0.9, math.nan)), r"model\.optimizer\.betas: expected \(0\.9, 0\.999\)"),
    "lr": (put(group, "lr", "0.1"), r"model\.optimizer\.lr: expected a finite number"),
    "groups": (
        put(lambda s: s["players"]["model"]["optimizer"], "param_groups", []),
        r"model\.optimizer\.param_groups: expected 1",
    ),
    "player": (put(lambda s: s["players"], "model", None), r"model: expected optimizer, scaler, got None"),
    "scale": (put(scaler, "scale", math.inf), r"model\.scaler\.scale: expected a finite number"),
    "no scale": (put(scaler, "scale", 0.0), r"model\.scaler\.scale: expected a finite number"),
    "growth": (put(scaler, "growth_factor", 3.0), r"model\.scaler\.growth_factor: expected 2\.0, got 3\.0"),
    "tracker": (put(scaler, "_growth_tracker", "1"), r"model\.scaler\._growth_tracker: expected an integer"),
    "average": (put(lambda s: s, "averaged", 5), r"averaged: expected an integer from 0 to 4, got 5"),
    "position": (put(lambda s: s["position"], "epoch", 1.5), r"position\.epoch: expected an integer"),
    "negative": (put(lambda s: s["position"], "batch", -1), r"position\.batch: expected an integer"),
    "best": (put(lambda s: s["position"], "best", math.nan), r"position\.best and loss: expected a number"),
    "clock": (put(lambda s: s["position"], "seconds", -1.0), r"position\.seconds: expected a finite number"),
    "schedule": (lambda s: s["position"].pop("step"), r"position: expected epoch, batch, step"),
    "sums": (
        put(lambda s: s["processes"][0]["sums"], "losses", {"nats": 1.0}),
        r"sums\.images: expected nats, got none",
    ),
    "torch": (
        put(lambda s: s["processes"][0]["random"], "torch", torch.zeros(7, dtype=torch.uint8)),
        r"random\.torch: expected a tensor \(5056,\) of torch\.uint8, got a tensor \(7,\)",
    ),
    "generator": (
        put(lambda s: s["processes"][0]["random"], "torch", torch.zeros(5056, dtype=torch.uint8)),
        r"random: expected states of random numbers, got one that is refused",
    ),
    "python": (
        put(lambda s: s["processes"][0]["random"], "python", (3, (1,), None)),
        r"random\.python\.1: expected a tup",
    ),
    "cuda": (put(lambda s: s["processes"][0]["random"], "cuda", [1]), r"random\.cuda\.0: expected bytes, got 1"),
    "beyond NumPy's numbers": (numpy(2, 10**6), r"random\.numpy\.2: expected an integer from 0 to 624, got 1000000"),
    "before them": (numpy(2, -1), r"random\.numpy\.2: expected an integer from 0 to 624, got -1"),
    "fewer": (numpy(1, [1, 2]), r"random\.numpy\.1: expected a list of 624, got 2"),
    "larger": (numpy(1, [2**32] * 624), r"random\.numpy\.1\.0: expected an integer from 0 to 4294967295"),
    "processes": (put(lambda s: s, "processes", 1), r"processes: expected a list, got 1"),
    "another": (put(lambda s: s, "extra", 1), r"state: expected version, position, .*, got .*extra"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_state_that_is_no_state_is_refused(saved: checkpoints.Checkpoint, tmp_path: Path, damage: str) -> None:
    change, message = DAMAGES[damage]
    state = copy.deepcopy(saved.state)
    change(state)
    run = save(tmp_path, saved, state)
    again = trainer(run, HALF)
    before = copy.deepcopy(again.model.state_dict())
    with pytest.raises(CheckpointError, match=rf"last\.safetensors: corrupted: .*{message}"):
        again.resume()
    assert all(torch.equal(tensor, before[key]) for key, tensor in again.model.state_dict().items())
    assert not again.players[0].optimizer.state, "something of it was loaded"


def save(folder: Path, saved: checkpoints.Checkpoint, state: dict[str, Any]) -> Run:
    run = new_run(folder / "run")
    checkpoints.save(run.checkpoints, ("last",), saved.weights, state)
    return run


def resumed(folder: Path, saved: checkpoints.Checkpoint, state: dict[str, Any]) -> Trainer:
    again = trainer(save(folder, saved, state), HALF)
    again.resume()
    again.fit(tiny.images(), tiny.images())
    return again


def test_slots_that_overlap_get_memory_of_their_own(saved: checkpoints.Checkpoint, tmp_path: Path) -> None:
    """Kernels write a slot as if it were laid out as its parameter is."""
    equal, overlapping = copy.deepcopy(saved.state), copy.deepcopy(saved.state)
    slots(equal)[1]["exp_avg"] = torch.full((48, 6), 0.25)
    slots(overlapping)[1]["exp_avg"] = torch.full((1, 1), 0.25).expand(48, 6)
    assert_same(resumed(tmp_path / "overlapping", saved, overlapping), resumed(tmp_path / "equal", saved, equal))


@pytest.mark.parametrize("role", ["model", "ema"])
def test_weights_of_another_dtype_are_named(saved: checkpoints.Checkpoint, tmp_path: Path, role: str) -> None:
    run = new_run(tmp_path / "run")
    weights = saved.weights | {role: {key: tensor.double() for key, tensor in saved.weights[role].items()}}
    checkpoints.save(run.checkpoints, ("last",), weights, saved.state)
    again = trainer(run, HALF)
    before = again.model.logits.weight.clone()
    with pytest.raises(CheckpointError, match=rf"expected {role}\.code torch\.float32, got torch\.float64"):
        again.resume()
    assert torch.equal(again.model.logits.weight, before)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop"])
def test_every_optimizer_goes_on(tmp_path: Path, optimizer: str) -> None:
    """What it wrote itself is never refused: before the first step, and after some."""
    recipe = dataclasses.replace(GAME, optimizer=optimizer, epochs=2)
    for epochs in (0, 1):
        run = new_run(tmp_path / f"run{epochs}")
        short = trainer(run, dataclasses.replace(recipe, epochs=epochs))
        short.fit(tiny.images(), tiny.images())
        short._save(run, ("last",))
        again = trainer(run, recipe)
        again.resume()
        assert_same(again, short)


def test_images_that_are_more_or_fewer_than_they_were(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    trainer(run, dataclasses.replace(RECIPE, epochs=1)).fit(tiny.images(), tiny.images())
    again = trainer(run)
    again.resume()
    with pytest.raises(ValueError, match="train: expected as many images as there were in the 4 steps before, got 400"):
        again.fit(tiny.images(400), tiny.images())


@pytest.mark.parametrize("data", [b"", b"no archive", b"\x80\x02c__builtin__\nprint\n."])
def test_state_files_that_hold_something_else(saved: checkpoints.Checkpoint, tmp_path: Path, data: bytes) -> None:
    """Under the name that its content has."""
    from safetensors.torch import load_file, save_file

    run = save(tmp_path, saved, saved.state)
    name = checkpoints._state_name(data)
    (run.checkpoints / name).write_bytes(data)
    path, tensors = run.checkpoints / "last.safetensors", load_file(run.checkpoints / "last.safetensors")
    digest = checkpoints.digest(tensors)
    for state, said in [
        (name, f"{name}: corrupted: "),
        ("../x", r"last\.safetensors: corrupted: expected the name of a state file, got '../x'"),
        ("", r"last\.safetensors: corrupted: expected the name of a state file, got ''"),
    ]:
        save_file(tensors, path, {"format": "fastgen-1", "state": state, "sha256": digest})
        with pytest.raises(CheckpointError, match=said):
            checkpoints.load(run.checkpoints, with_state=True)
