"""The training loop: plain PyTorch, any objective, no model's name.

Everything a run depends on is in its checkpoint, so that a run which was stopped or killed, and resumed, ends with the
same weights as one that was not, bit for bit on the CPU: weights and their average, every optimiser and its gradient
scaler, random numbers of every process, and the position in the data, whose order follows from seed and epoch alone.
"""

import math
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._checks import check_instance
from .._extras import require
from ..data import Dataset
from ..nn import SyncBatchNorm
from . import batch, checkpoint, distributed, randomness, resuming
from .beginning import begin
from .checks import check_data, check_parts, check_shared
from .ema import EMA
from .evaluation import Evaluation, evaluate, measure_set
from .loss_monitor import LossMonitor
from .objective import Objective, objective_of
from .player_optimizer import PlayerOptimizer
from .recipe import Recipe
from .run import Record, Run
from .state import STATE, Position
from .stopping import TIME_IS_UP, Stopped

SYNC_EVERY = 25
"""Steps between looks at the losses on a device that runs ahead of Python; on the CPU every step is looked at."""
SETTLED = 2048
"""Images to train on, at most, of which batch norms of the average take their statistics."""


class Trainer:
    """A model in training: its optimisers, its average, and how far it is.

    Args:
        model: trained in place, on the device it is on.
        recipe: how to optimise.
        run: where checkpoints and metrics go; None keeps neither.
        objective: what to minimise; by default what the model offers by ``objective()``, or else its ``losses``.

    Raises:
        ValueError: the processes or parts of a step do not divide its images, or the objective cannot be played.
    """

    def __init__(self, model: Any, recipe: Recipe, run: Run | None = None, objective: Objective | None = None) -> None:
        check_instance("model", model, nn.Module, "a module")
        check_instance("recipe", recipe, Recipe, "a Recipe")
        check_parts(recipe)
        self.model = model.to(memory_format=torch.channels_last) if recipe.channels_last else model
        if recipe.sync_batch_norm and distributed.size() > 1:
            SyncBatchNorm.convert_sync_batchnorm(self.model)
        self.recipe = recipe
        self.run = run
        self.objective = objective or objective_of(model)
        self.position = Position()
        self.average = EMA(model) if recipe.averages else None
        self.players = PlayerOptimizer.all(self.objective, recipe, self.device)
        self._observes = type(self.objective).observe is not Objective.observe  # else processes need not meet
        self._some: Dataset | None = None
        self._asked = 0
        self._deadline = math.inf
        self._round = max(player.player.steps for player in self.players)
        self.monitor = LossMonitor(model, recipe, len(self.players) > 1, self._good)
        if distributed.rank():  # the first process goes on as one that is alone would
            torch.manual_seed(distributed.seed_of(recipe.seed))

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def ema(self) -> Any:
        """The model with averaged weights; the model itself where no average is kept."""
        return self.model if self.average is None else self.average.module

    def resume(self, name: str = "last") -> None:
        """Continue from a checkpoint of the run.

        Raises:
            CheckpointError: it cannot be read, holds another model, is of another number of processes, or its state is
                not what this trainer would have written; the message names what differs.
            ValueError: there is no run.
        """
        if self.run is None:
            raise ValueError("run: expected the run to resume, got None")
        with self.run.lock():
            resuming.resume(self, self.run, name)

    def fit(self, train: Dataset, held_out: Dataset, on_epoch: Callable[[Record], None] | None = None) -> None:
        """Train for the epochs that are left, evaluating the average on ``held_out`` after each.

        Args:
            train: images to train on.
            held_out: images to evaluate on; the best epoch is chosen by them.
            on_epoch: called in the first process with what metrics.jsonl lists, when the checkpoint is written:
                whatever happens in it, the epoch is kept. A resumed run does not call it again.

        Raises:
            ValueError: the data are not what the model reads.
            NonFiniteError: says in which step, and what came before it; the checkpoints are those from before it.
            CheckpointError: a checkpoint cannot be written.
            ElsewhereError: the first of several processes failed in writing, and says so.
            BlockingIOError: another process trains in the run's folder.
            FileNotFoundError: the folder was deleted or moved.
            Stopped: ``ask_to_stop`` was called, or ``recipe.max_minutes`` have passed since this call; the steps until
                then are in the last checkpoint, and what the time was enough for is evaluated, and the best if it is.
        """
        train = check_data(self.model, train, "train")
        held_out = check_data(self.model, held_out, "held_out")
        check_shared(self.model, self.recipe, len(train))
        self._some = train.subset(SETTLED)
        here, batches = self.position, self.recipe.batches(len(train))
        if here.batch > batches or here.step != here.epoch * batches + here.batch:
            raise ValueError(
                f"train: expected as many images as there were in the {here.step} steps before, got {len(train)}"
            )
        if self.recipe.max_minutes:
            self._deadline = time.monotonic() + 60 * self.recipe.max_minutes
        lock = self.run.lock() if self.run else nullcontext()
        with lock, randomness.deterministic(self.recipe.deterministic), PlayerOptimizer.in_turn(self.players):
            while here.epoch < self.recipe.epochs and not self.is_stale:
                self._train_epoch(train, held_out)
                record, is_best = self._end_epoch(held_out)
                if self.run is not None:  # resuming forgets a line too many, and cannot make up a lost one
                    distributed.first_only(partial(self.run.add_metrics, record))
                    self._save(self.run, ("last", "best") if is_best else ("last",))
                if on_epoch is not None:
                    distributed.first_only(partial(on_epoch, record))
                if here.epoch < self.recipe.epochs and not self.is_stale:
                    self._stop_if_asked(held_out)

    @property
    def is_stale(self) -> bool:
        """Whether ``recipe.patience`` epochs in a row were no better than the best one: training ends early."""
        return 0 < self.recipe.patience <= self.position.stale

    def ask_to_stop(self, number: int = signal.SIGINT) -> None:
        """Let ``fit`` end after the step under way: it saves, and raises ``Stopped``, which knows the signal."""
        self._asked = number

    def _stop_if_asked(self, held_out: Dataset) -> None:
        number = distributed.largest(self._asked or TIME_IS_UP * (time.monotonic() >= self._deadline))
        if not number:
            return
        here = self.position
        if here.batch:
            is_best = False
            if number == TIME_IS_UP:  # a run that had no time for an epoch has something to draw from
                held = self._evaluate(held_out)
                is_best = held.loss < here.best
                if is_best:
                    here.best, here.loss, here.stale = held.loss, held.first, 0
            if self.run is not None:
                self._save(self.run, ("last", "best") if is_best else ("last",))
        raise Stopped(number)

    def _evaluate(self, held_out: Dataset) -> Evaluation:
        distributed.share_buffers(self.model, self.ema)
        self._settle()
        measures = partial(self.objective.evaluate, self.ema)
        held = evaluate(self.ema, held_out, self.recipe.batch_size, measures, self.recipe.seed, title="held out")
        of_set = partial(self.objective.measure_set, self.ema, held_out)
        held = replace(held, of_set=measure_set(of_set, self.ema, self.recipe.seed), watched=self.objective.best)
        if not math.isfinite(held.loss):
            self.monitor.stop(self.position.step, f"held-out {held.first} is {held.loss}")
        return held

    def _settle(self) -> None:
        if self.average is not None:
            assert self._some is not None  # since there was a step
            with randomness.set_aside(self.recipe.seed, self.device):
                self.objective.settle_on(self.ema, self._some, self.recipe.batch_size)

    def _end_epoch(self, held_out: Dataset) -> tuple[Record, bool]:
        here, started = self.position, time.perf_counter()
        held = self._evaluate(held_out)
        loss = held.loss
        losses, images = self.monitor.add_up()
        record: Record = {
            "epoch": here.epoch + 1,
            "step": here.step,
            **{f"train_{name}": loss for name, loss in losses.items()},
            **{f"held_out_{name}": number for name, number in held.numbers().items()},
            "lr": self.players[0].optimizer.param_groups[0]["lr"],
            "seconds": round(here.seconds, 3),
            "held_out_seconds": round(time.perf_counter() - started, 3),
            "images_per_second": round(images / here.seconds, 1),
            **self._played(images),
            **({"measure": held.about[held.first].words} if held.first in held.about else {}),
        }
        is_best, here.loss = loss < here.best, held.first
        here.epoch, here.batch, here.best, here.seconds = here.epoch + 1, 0, min(here.best, loss), 0.0
        here.stale = 0 if is_best else here.stale + 1
        return record, is_best

    def _played(self, images: int) -> Record:
        """How far a game is: rounds are what epochs are not, where one player moves more often than the other."""
        if len(self.players) < 2:
            return {}
        return {"rounds": self.position.step // self._round, "images_seen": images * (self.position.epoch + 1)}

    def _train_epoch(self, train: Dataset, held_out: Dataset) -> None:
        here, recipe, device = self.position, self.recipe, self.device
        batches = recipe.batches(len(train))
        order = np.random.default_rng([recipe.seed, here.epoch]).permutation(len(train))
        mirrored = recipe.mirrored(here.epoch, len(train))
        title, hidden = f"epoch {here.epoch + 1}/{recipe.epochs}", True if distributed.rank() else None
        self.model.train()
        with require("tqdm").tqdm(
            total=batches, initial=here.batch, desc=title, unit="batch", leave=False, disable=hidden
        ) as bar:
            started = time.perf_counter()
            while here.batch < batches:
                whole = order[here.batch * recipe.batch_size :][: recipe.batch_size]
                if here.step == 0:
                    begin(self.objective, train, whole, recipe.seed, device)
                mine = distributed.share(whole)
                some = mine if len(mine) else whole[:1]
                ((values, condition),) = train.batches(len(whole), device, some)
                if mirrored is not None:
                    values, condition = batch.mirrored(values, condition, mirrored[some])
                self._step(values, condition, len(mine), len(whole), batches * recipe.epochs)
                ends = here.batch == batches
                saves = self.run and recipe.save_every and here.step % recipe.save_every == 0 and not ends
                looks = device.type == "cpu" or len(self.monitor.pending) >= SYNC_EVERY or saves or ends
                if looks:
                    self.monitor.look(here.epoch)
                if not self.monitor.pending:
                    now = time.perf_counter()
                    here.seconds, started = here.seconds + now - started, now
                    if not bar.disable and self.monitor.last is not None:
                        bar.set_postfix_str(f"{self.monitor.last.name}={self.monitor.last.loss:.4g}", refresh=False)
                bar.update()
                if self.run and saves:
                    self._save(self.run, ("last",))
                if looks and not ends:
                    self._stop_if_asked(held_out)

    def _step(self, values: Tensor, condition: Any, mine: int, images: int, steps: int) -> None:
        """One batch: every player whose turn it is moves, on this process's ``mine`` of ``images`` images."""
        here, recipe = self.position, self.recipe
        if recipe.channels_last:
            values, condition = batch.channels_last(values, condition)
        turn, factor = here.step % self._round, recipe.lr_factor(here.step, steps)
        for player in self.players:
            if turn < self._round - player.player.steps:
                continue
            if len(self.players) > 1:
                player.toggle()
            losses = player.gradient(values, condition, mine, images, here.step / steps, here.step)
            losses.step = here.step + 1
            self.monitor.pending.append(losses)
            if values.device.type == "cpu":
                self.monitor.look(here.epoch, player, values, condition)
            if self._observes:
                means = distributed.mean(losses.sums, mine, images).unbind()
                self.objective.observe(player.player, dict(zip(losses.names, means, strict=True)))
            player.move(factor)
            self.objective.after_move(player.player, here.step)
        if turn == self._round - 1:
            self.objective.end_of_round(here.step)
        here.step, here.batch = here.step + 1, here.batch + 1
        if self.average is not None:
            self.average.update(recipe.average_at(here.step, steps // recipe.epochs))

    def _good(self) -> str:
        return "no checkpoint was asked for" if self.run is None else checkpoint.good(self.run.checkpoints)

    def _save(self, run: Run, names: tuple[str, ...]) -> None:
        self.monitor.check_weights(self.position.step)
        distributed.first_only(run.check_there)
        if self.position.batch:  # in an epoch: after one the average was evaluated, and so is settled
            self._settle()
        state = {
            "version": STATE,
            "position": asdict(self.position),
            "averaged": 0 if self.average is None else self.average.updates,
            "players": {player.name: player.state_dict() for player in self.players},
            "processes": distributed.gather(
                {
                    "random": randomness.get_state(),
                    "sums": asdict(self.monitor.sums),
                    "objective": self.objective.state_dict(),
                }
            ),
        }
        weights = {"model": self.model.state_dict()}
        if self.average is not None:
            weights["ema"] = self.ema.state_dict()
        distributed.first_only(lambda: checkpoint.save(run.checkpoints, names, weights, state))
