"""``fastgen train``: what happens around the loop."""

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from .. import pictures
from .._checks import listed
from .._console import is_unread, several
from .._extras import require
from .._version import __version__
from ..data import Dataset
from ..data.identity import check_content, content
from ..measures import of, words
from ..training import Record, Run, Trainer, checkpoint, describe, distributed
from ..training.checks import check_data, check_shared
from ..training.run import build_model
from ..training.stopping import TIME_IS_UP, Stopped, on_signals
from . import pick_device
from .animation import animate
from .beside import pca_squared_error, pca_words
from .dry_run import describe_plan, estimate
from .epoch_pictures import draw_curves, draw_epoch, keep_held_out
from .given_images import draw_given
from .played import played
from .remarks import remarks
from .run_words import command, name_of, so_far, ways_on, where
from .train_arguments import read
from .train_options import Train


def main(arguments: list[str]) -> str:
    """Train as the arguments say."""
    name, options, run = read(arguments)
    if options.tensorboard:
        _tensorboard()
    device = distributed.local_device(pick_device(options.device))
    with distributed.processes(device):
        said = _train(name, options, run, device)
        return said if distributed.rank() == 0 else ""


def _train(name: str, options: Train, run: Run, device: torch.device) -> str:
    train, held_out = options.load_data()
    torch.manual_seed(options.seed)
    goes_on = options.resume and run.has_checkpoint
    model = (build_model(run) if goes_on else options.build(name, train)).to(device)
    if not goes_on:
        options.initialise(model)
    for data, what in ((train, "train"), (held_out, "held_out")):
        check_data(model, data, what)
    options.batches(len(train))
    check_shared(model, options, len(train))
    said = about(model, train, held_out)
    config = {
        "fastgen": __version__,
        "torch": torch.__version__,
        "device": _describe(device) + (f", {distributed.size()} processes" if distributed.size() > 1 else ""),
        "model": {"name": name, "config": model.config},
        "parameters": sum(p.numel() for p in model.parameters()),
        "data": {"shape": list(train.shape), "levels": train.levels, "train": len(train), "held_out": len(held_out)},
        "content": content(train, held_out),
        "options": asdict(options),
        "about": said,
    }
    notes = check_content(train, held_out, run.config(), f"the run in {run.folder}") if options.resume else ()
    trainer = Trainer(model, options, run)
    if options.dry_run:
        return describe_plan(name, options, trainer, train, held_out, str(config["device"]))
    with run.lock(), on_signals(trainer.ask_to_stop):
        if not options.resume:
            distributed.first_only(lambda: run.create(config, options.overwrite))
        shown, classes = held_out, model.classes
        if options.form is not None:
            shown, classes = options.form.restore(held_out), None
        distributed.first_only(lambda: keep_held_out(run, shown, options.samples, classes))
        say = require("tqdm").tqdm.write if distributed.rank() == 0 else lambda line: None
        say(f"{name}, {config['parameters']:,} parameters, on {config['device']}")
        sizes = f"{several(len(train), 'image')} to train on, {len(held_out):,} held out"
        say(f"{train.name}: {sizes}, {train.levels} levels")
        for note in dict.fromkeys((*train.notes, *held_out.notes, *notes, *untrained(train))):
            say(note)
        for what, words_of_it in (played(trainer) | said).items():
            say(f"{what.replace('_', ' ')}: {words_of_it}")
        try:
            ended = _fit(trainer, train, held_out, options, config, run, say)
        except KeyboardInterrupt as stop:
            stop.args = (_how_to_continue(name, run),)
            raise
        except OSError as error:
            if is_unread(error):
                raise
            raise OSError(f"{error}; {checkpoint.good(run.checkpoints)}") from error
    if not run.has_checkpoint:
        return f"{run.folder}: no checkpoint, since nothing was trained"
    loss = trainer.position.loss
    form = ".2f" if loss == "nats" else ".4g"
    best = f"{ended}best held-out {loss} {trainer.position.best:{form}}{_accuracy(run, loss, trainer.position.best)}"
    best += f" ({said[loss]})" if loss in said else ""
    beside = pca_squared_error(trainer.ema, train, held_out) if distributed.rank() == 0 else None
    best += f"; {pca_words(beside)}" if beside else ""
    last = f"{run.folder}: {best}; {', '.join(ways_on(model, run.folder))}"
    return "\n".join([*remarks(run.metrics(), model, train, held_out, loss), last])


def _accuracy(run: Run, loss: str, best: float) -> str:
    """Of the epoch whose held-out loss is ``best``, of a model that has one; time may have been up within an epoch."""
    there = [record for record in run.metrics() if record.get(f"held_out_{loss}") == best]
    return next((f", accuracy {it['held_out_accuracy']:.1%}" for it in there if "held_out_accuracy" in it), "")


def untrained(train: Dataset) -> list[str]:
    """Which classes have no image to train on, for people."""
    if train.labels is None or train.classes is None:
        return []
    names = train.class_names or range(train.classes)
    missing = [name for name, n in zip(names, train.labels.bincount(minlength=train.classes), strict=True) if not n]
    return [f"no image to train on has the class {listed(missing)}"] if missing else []


def about(model: Any, train: Dataset, held_out: Dataset) -> dict[str, str]:
    """What the run's numbers are: of which images, and each of the model's measures, for console, curves and report."""
    sets = {"train": train, "held_out": held_out}
    images = {name: data.description for name, data in sets.items()}
    for name, data in sets.items():
        if not images[name].startswith(count := several(len(data), "image")):
            images[name] = f"{count}, {images[name]}"
    declared = getattr(model, "measures", {}) or of(model)
    return images | words(declared)


def _fit(
    trainer: Trainer,
    train: Dataset,
    held_out: Dataset,
    options: Train,
    config: dict[str, Any],
    run: Run,
    say: Callable[[str], object],
) -> str:
    """Train from where the run is to its end; what else there is to say of this end."""
    reporter, here = _Reporter(trainer, held_out, options, run), trainer.position
    if options.resume:
        if run.has_checkpoint:
            trainer.resume(options.checkpoint)
            here = trainer.position
            distributed.first_only(reporter.make_good)
            say(f"continues {run.folder} after {so_far(here.epoch, here.batch)}")
            before = run.config()["options"].get("epochs", options.epochs)
            if before != options.epochs and options.schedule != "constant":
                say(f"the {options.schedule} schedule is now that of {options.epochs} epochs, and was that of {before}")
        else:
            distributed.first_only(lambda: run.rewind(0))
            say(f"begins {run.folder} again, since nothing was saved in it yet")
        distributed.first_only(lambda: run.write_config(config))
    if distributed.rank() == 0 and here.epoch < options.epochs and not trainer.is_stale:
        say(f"time: {estimate(config['model']['name'], options, trainer, train, held_out)}")
    ended, reporter.since = "", time.perf_counter()
    try:
        trainer.fit(train, held_out, reporter)
        if trainer.is_stale:
            ended = f"stopped early after epoch {here.epoch}, since {here.stale} in a row were no better; "
    except Stopped as stop:
        if stop.number != TIME_IS_UP:
            raise
        again = command("train", config["model"]["name"], "--run", run.folder, "--resume")
        ended = f"time is up after {so_far(here.epoch, here.batch)}; continue with: {again}; "
    distributed.first_only(lambda: draw_curves(run))
    distributed.first_only(lambda: animate(run))
    distributed.first_only(run.check_there)
    return ended


class _Reporter:
    """Called after every epoch: a line for the person, a picture of what the model does, and TensorBoard's."""

    def __init__(self, trainer: Trainer, held_out: Dataset, options: Train, run: Run) -> None:
        self.trainer = trainer
        self.held_out = held_out
        self.options = options
        self.run = run
        self.writer: Any = None
        self.since = time.perf_counter()

    def __call__(self, record: Record) -> None:
        picture = self._draw(record["epoch"])
        now = time.perf_counter()
        rest, self.since = now - self.since - record["seconds"] - record["held_out_seconds"], now
        more = f", and {rest:.1f} s to save and draw" if rest > max(0.5, 0.1 * record["seconds"]) else ""
        of_it = self.trainer.objective.remarks(record)
        where = "" if picture is None else f"   {self.run.picture(record['epoch'])}"
        require("tqdm").tqdm.write(describe(record, self.options.epochs) + more + where)
        for remark in of_it:
            require("tqdm").tqdm.write(f"  {remark}")
        if self.options.tensorboard:
            self._log(record, picture)

    def make_good(self) -> None:
        """Draw the picture of the last whole epoch, if a kill came between its checkpoint and the picture."""
        here = self.trainer.position
        if here.epoch > 0 and here.batch == 0 and not self.run.picture(here.epoch).is_file():
            self._draw(here.epoch)

    def _draw(self, epoch: int) -> np.ndarray | None:
        self.run.check_there()
        n, of = self.options.samples, f"{name_of(self.run.config())}, epoch {epoch}"
        picture, form = None, self.options.form
        if n > 0 and form is not None:
            picture = draw_given(self.trainer.ema, self.held_out, form, n, self.options.seed, of)
        elif n > 0:
            picture = draw_epoch(self.trainer.ema, self.held_out, n, self.options.seed, of)
        if picture is not None:
            self.run.samples.mkdir(exist_ok=True)
            pictures.save(picture, self.run.picture(epoch))
        return picture

    def _log(self, record: Record, picture: np.ndarray | None) -> None:
        step = record["step"]
        if self.writer is None:  # what a killed run wrote beyond its checkpoint is not shown
            self.writer = _tensorboard()(str(self.run.folder / "tensorboard"), purge_step=step)
        for key, value in record.items():
            if key not in ("epoch", "step") and value is not None and not isinstance(value, str):
                self.writer.add_scalar(key.replace("held_out_", "held_out/").replace("train_", "train/"), value, step)
        if picture is not None:
            self.writer.add_image("samples", picture, step, dataformats="HWC")
        self.writer.flush()


def _tensorboard() -> Any:
    """The class of TensorBoard's writers.

    Raises:
        MissingExtraError: it is not installed.
    """
    require("tensorboard", "log")
    return require("torch.utils.tensorboard").SummaryWriter


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device}, {several(torch.get_num_threads(), 'thread')}"


def _how_to_continue(name: str, run: Run) -> str:
    again = command("train", name, "--run", run.folder, "--resume")
    if not run.has_checkpoint:
        return f"nothing was saved in {run.folder} yet; begin again with: {again}"
    return f"{run.folder} holds {where(run)}; continue with: {again}"
