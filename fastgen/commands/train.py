"""``fastgen train``: options, and what happens around the loop."""

import math
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Annotated, Any, Union

import torch
import tyro

from .. import pictures
from .._extras import require
from .._version import __version__
from ..data import NAMES, Dataset
from ..training import Record, Run, Trainer, checkpoint, describe
from . import parse, pick_device
from .model_options import MODELS, Train

FREE_ON_RESUME = ("data_root", "epochs", "save_every", "samples", "device", "run", "resume", "checkpoint")
"""Options that a resumed run may change: all others would make it another run."""


def main(arguments: list[str]) -> str:
    """Train as the arguments say."""
    name, options, run = _read(arguments)
    device = pick_device(options.device)
    train, held_out = options.load_data()
    torch.manual_seed(options.seed)
    model = options.build(name, train).to(device)
    config = {
        "fastgen": __version__,
        "model": {"name": name, "config": model.config},
        "data": {"shape": list(train.shape), "levels": train.levels, "train": len(train), "held_out": len(held_out)},
        "options": asdict(options),
    }
    trainer = Trainer(model, options, run)
    if not options.resume:
        run.create(config)
    elif config["data"] != run.config()["data"]:
        raise ValueError(f"data: expected {run.config()['data']}, as when the run began, got {config['data']}")

    say = require("tqdm").tqdm.write
    say(f"{name}, {sum(p.numel() for p in model.parameters()):,} parameters, on {_describe(device)}")
    say(f"{train.name}: {len(train):,} images to train on, {len(held_out):,} held out, {train.levels} levels")

    def on_epoch(record: Record) -> None:
        say(describe(record, options.epochs))
        if options.samples > 0:
            _draw(trainer.ema, held_out, options, run.samples / f"epoch-{record['epoch']:04}.png")

    try:
        if options.resume:
            if run.has_checkpoint:
                trainer.resume(options.checkpoint)
            else:
                run.rewind(0)
            run.write_config(config)
        trainer.fit(train, held_out, on_epoch)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(_how_to_continue(name, run)) from stop
    except OSError as error:
        raise OSError(f"{error}; {checkpoint.good(run.checkpoints)}") from error
    if not run.has_checkpoint:
        return f"{run.folder}: no checkpoint, since nothing was trained"
    return f"{run.folder}: best held-out {trainer.position.best:.2f} nats; fastgen sample {run.folder} draws from it"


def _read(arguments: list[str]) -> tuple[str, Train, Run]:
    """The model's name, the options, and the run; options that a resumed run was started with are its defaults."""
    subcommands: Any = tuple(Annotated[kind, tyro.conf.subcommand(name)] for name, kind in MODELS.items())
    options: Train = parse(Union[subcommands], "train", arguments)  # noqa: UP007 - built from a table
    name = arguments[0]
    data = options.data if options.data in NAMES else Path(options.data).resolve().stem or "images"
    run = Run(options.run or f"runs/{name}-{data}")
    if not options.resume:
        run.check_new()
        return name, _absolute(options), run
    config = run.config()
    if config["model"]["name"] != name:
        raise ValueError(f"model: expected {config['model']['name']}, which the run in {run.folder} is of, got {name}")
    try:
        started = MODELS[name](**config["options"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{run.folder / 'config.json'}: {error}") from error
    options = parse(MODELS[name], f"train {name}", arguments[1:], default=replace(started, resume=False))
    options = _absolute(options)
    for field in fields(started):
        before, now = getattr(started, field.name), getattr(options, field.name)
        if now != before and field.name not in FREE_ON_RESUME:
            raise ValueError(f"{field.name}: expected {before}, as when the run in {run.folder} began, got {now}")
    return name, options, run


def _absolute(options: Train) -> Train:
    """The same options wherever the run is used from."""
    data = options.data if options.data in NAMES else str(Path(options.data).resolve())
    return replace(options, data=data, data_root=options.data_root and str(Path(options.data_root).resolve()))


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device}, {torch.get_num_threads()} threads"


def _draw(model: Any, held_out: Dataset, options: Train, path: Path) -> None:
    n, classes, device = options.samples, model.classes, next(model.parameters()).device
    some = held_out.subset(n)
    labels = some.labels if some.labels is None else some.labels.to(device)
    rows = model.preview(n, options.seed, some.values.to(device, torch.int64), labels)
    if not rows:
        return
    columns = classes if classes is not None and classes <= 16 else math.ceil(n**0.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [pictures.to_rgb(row, held_out.levels) for row in rows]
    pictures.save(pictures.grid(pictures.in_turn(images, columns), columns), path)


def _how_to_continue(name: str, run: Run) -> str:
    command = f"fastgen train {name} --run {run.folder} --resume"
    if not run.has_checkpoint:
        return f"nothing was saved in {run.folder} yet; begin again with: {command}"
    here = checkpoint.load(run.checkpoints, with_state=True).state["position"]
    saved = f"epoch {here['epoch']}" + (f" and {here['batch']} batches of the next" if here["batch"] else "")
    return f"{run.folder} holds {saved}; continue with: {command}"
