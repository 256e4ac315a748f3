"""What ``fastgen train --dry-run`` says: everything that would happen, and the losses of the first batch."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._console import duration, several
from ..conditions import described, kind_of_batch
from ..data import Dataset
from ..training import Trainer, distributed
from ..training.beginning import begin
from ..training.checks import check_batch, check_data, check_losses, check_parts
from ..training.objective import objective_of
from ..training.pace import measure
from ..training.randomness import set_aside
from .played import played
from .run_words import where
from .train_options import Train

LONG = 3600
"""Seconds of training from which on it is said what is faster."""

SLOTS = {"adam": 2, "adamw": 2, "sgd": 1, "rmsprop": 1}
"""Numbers that an optimiser remembers for each weight."""


def describe_plan(name: str, options: Train, trainer: Trainer, train: Dataset, held_out: Dataset, device: str) -> str:
    """Lines about a run that has not begun; the first batch is checked and its losses are computed.

    Raises:
        ValueError: the data are not what the model reads, or its losses have not their form.
    """
    run, model = trainer.run, trainer.model
    assert run is not None
    weights = sum(p.numel() for p in model.parameters())
    trained = {id(p): p.numel() for player in trainer.players for p in player.player.parameters}
    moved, steps = sum(trained.values()), options.batches(len(train))
    slots = sum(
        SLOTS[player.recipe.optimizer] * p.numel() for player in trainer.players for p in player.player.parameters
    )
    channels, height, width = train.shape
    losses, kept = _first_losses(trainer, train, held_out)
    state = 4 * (weights + moved + slots + (weights if options.averages else 0))
    averaged = f", average {options.ema:g}" if options.averages else ", no average"
    if options.average == "polyak":
        averaged = ", mean of the weights" + (f" from epoch {options.average_from:g}" if options.average_from else "")
    files = ["config.json", "metrics.jsonl", "curves.png", "checkpoints/{last,best}.safetensors, state-*.pt"]
    files += ["held_out.png", "samples/epoch-*.png", "samples.gif"] if options.samples > 0 else []
    files += ["tensorboard/"] if options.tensorboard else []
    lines = {
        "model": f"{name}, {weights:,} parameters" + (f", {moved:,} of them trained" if moved < weights else ""),
        "data": f"{train.name}: {several(len(train), 'image')} to train on, {len(held_out):,} held out;"
        f" {channels}x{height}x{width}, {train.levels} levels"
        + ("" if train.classes is None else f", {train.classes} classes")
        + ("" if train.condition is None else f", told {described(kind_of_batch(train.condition))}"),
        "device": f"{device}, {options.precision}" + (", compiled" if options.compile else ""),
        "steps": f"{several(options.epochs, 'epoch')} of {several(steps, 'batch', 'batches')} of {options.batch_size}"
        + (f", each in {options.accumulate} parts" if options.accumulate > 1 else "")
        + f": {several(options.epochs * steps, 'step')}",
        "optimiser": f"{options.optimizer}, lr {options.lr:g}, {options.schedule}, warm-up {options.warmup} steps,"
        f" clip {options.clip:g}{averaged}",
        **played(trainer),
        "memory": f"about {_size(state + kept)}: {_size(state)} for weights, gradients, optimiser and average,"
        f" {_size(kept)} for a batch; {_size(train.values.numel() + held_out.values.numel())} for the data",
        "first batch": ", ".join(f"{key} {value:.4g}" for key, value in losses.items()) + " per image",
        "would write": f"{run.folder}/: {', '.join(files)}",
    }
    if options.epochs:
        lines["time"] = estimate(name, options, trainer, train, held_out)
    if not options.resume:
        try:
            run.check_new(options.overwrite)
        except FileExistsError as error:
            lines["in the way"] = str(error)
    if options.resume and run.has_checkpoint:
        lines["continues"] = f"after {where(run, options.checkpoint)}"
    return "\n".join(f"{key:<12}  {said}" for key, said in lines.items()) + "\nnothing was written"


def estimate(name: str, options: Train, trainer: Trainer, train: Dataset, held_out: Dataset) -> str:
    """How long an epoch and the rest of the run take, and what is faster where that is long."""
    if options.compile:
        return "not estimated, since the losses are compiled first"
    left = options.epochs - trainer.position.epoch
    training, evaluating = measure(trainer.objective, options, trainer.device, train).epoch(len(train), len(held_out))
    total = left * (training + evaluating)
    said = f"about {duration(training + evaluating)} an epoch (training {duration(training)}, evaluating"
    said += f" {duration(evaluating)}), {duration(total)} for {several(left, 'epoch')}; measured on a few"
    said += " images, without pictures and checkpoints"
    recipe = options.model.recipes.get("small")
    if total < LONG or options.recipe == "small" or not recipe:
        return said
    small = replace(options, **recipe, recipe="small")
    with set_aside(options.seed, trainer.device):  # the run's own random numbers are left as they are
        try:
            check_parts(small)
            trial = objective_of(small.build(name, train).to(trainer.device))
        except ValueError:  # other options that were given do not go with its sizes
            return said
        each = sum(measure(trial, small, trainer.device, train).epoch(len(train), len(held_out)))
    what = "takes" if trial.model.config == trainer.model.config else "is another model, for"
    return f"{said}; --recipe small {what} {duration(small.epochs * each)}"


def _first_losses(trainer: Trainer, train: Dataset, held_out: Dataset) -> tuple[dict[str, float], int]:
    """Losses of the first batch, as every player sees it, and the bytes that its gradient would be computed from."""
    train = check_data(trainer.model, train, "train")
    check_data(trainer.model, held_out, "held_out")
    size = trainer.recipe.batch_size // distributed.size() // trainer.recipe.accumulate
    values, condition = next(iter(train.batches(size, trainer.device)))
    check_batch(trainer.model, values, condition)
    if not trainer.position.step:
        begin(trainer.objective, train, np.arange(len(values)), trainer.recipe.seed, trainer.device)
    weights = {p.untyped_storage().data_ptr() for p in trainer.model.parameters()}
    found: dict[str, float] = {}
    most = 0
    for player in trainer.players:
        kept: dict[int, int] = {}

        def keep(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        prefix = f"{player.name}_" if len(trainer.players) > 1 else ""
        with torch.autograd.graph.saved_tensors_hooks(keep, _same), player.autocast():
            losses: dict[str, Any] = player.player.losses(values, condition, 0.0)
        check_losses(losses, len(values), player.name)
        found |= {f"{prefix}{key}": loss.mean().item() for key, loss in losses.items()}
        most = max(most, sum(kept.values()))
    return found, most


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _size(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 2**10:.0f} KiB"
