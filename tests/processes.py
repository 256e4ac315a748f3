"""What each of several processes does: torchrun processes.py begin|resume FOLDER in ``test_distributed.py``,
and torchrun processes.py draw COMMANDS in ``test_drawing.py`` and ``test_cli_codec.py``.
"""

import dataclasses
import json
import signal
import sys
from pathlib import Path
from typing import Any

import torch

import tiny
from fastgen.data import Dataset
from fastgen.models import BEGAN, DCGAN, VQVAE, AdversarialAutoencoder, InfoGAN, PixelCNNPP
from fastgen.training import ElsewhereError, Recipe, Run, Trainer, distributed
from fastgen.training.stopping import Stopped, on_signals

CODER = Recipe(
    epochs=2, batch_size=12, accumulate=2, optimizer="sgd", lr=0.5, warmup=3, schedule="linear", ema=0.8, seed=3
)
GAME = dataclasses.replace(CODER, lr=0.05, schedule="constant", clip=0.5, save_every=1)

GAN = Recipe(
    epochs=2, batch_size=12, optimizer="sgd", lr=0.05, betas=(0.5, 0.9), clip=0, ema=0.8, drop_last=True, seed=3
)
"""Batch norm in both networks, and noise: of a step that two processes divide."""

IMAGES = 37
"""The last batch of an epoch has one image: the second process has none."""

SIGNALLED = 6
"""The step in which the run that is stopped by a signal gets it: the second of the second epoch."""


def build(what: str, run: Run | None = None, dtype: torch.dtype = torch.float32, **changes: Any) -> Trainer:
    """A trainer of a model that draws no random numbers, or those of an image by its place in the batch."""
    torch.manual_seed(3)
    if what == "coder":
        return Trainer(tiny.Coder().to(dtype), dataclasses.replace(CODER, **changes), run)
    if what == "told":
        return Trainer(
            tiny.Told("class", "text", "small", dropout=0.0).to(dtype),
            dataclasses.replace(CODER, flip=True, **changes),
            run,
        )
    if what == "gan":
        model = DCGAN(1, 3, latent=3, channels=2, image_size=16, game={"discriminator_steps": 2, "dequantize": True})
        return Trainer(model.to(dtype), dataclasses.replace(GAN, **changes), run)
    if what == "infogan":
        model = InfoGAN(1, 3, latent=7, categories=(3,), channels=2, hidden=5, code_hidden=4, image_size=16)
        return Trainer(model.to(dtype), dataclasses.replace(GAN, lr=0.005, **changes), run)
    if what == "aae":
        sizes = {"latent": 3, "hidden": (6,), "channels": (2, 3), "discriminator_hidden": (4,), "noise": 0.2}
        model = AdversarialAutoencoder(1, 3, **sizes, image_size=16)
        return Trainer(model.to(dtype), dataclasses.replace(GAN, **changes), run)
    if what == "began":
        model = BEGAN(1, 3, latent=3, channels=2, image_size=4, balance={"gain": 0.3})
        return Trainer(model.to(dtype), dataclasses.replace(GAME, **changes), run)
    if what == "codes":  # of which none is so rare that it would begin anew, from random places
        quantised = VQVAE(1, 3, codes=3, code_channels=2, channels=4, layers=1, halvings=1, image_size=4)
        return Trainer(
            quantised.to(dtype),
            dataclasses.replace(CODER, **{"accumulate": 1, "lr": 0.02, "drop_last": True, **changes}),
            run,
        )
    if what == "pixels":  # which begin from the first batch, whole
        shifted = PixelCNNPP(1, 3, channels=2, blocks=1, resolutions=2, dropout=0, components=2, image_size=4)
        return Trainer(shifted.to(dtype), dataclasses.replace(CODER, lr=0.01, **changes), run)
    model = tiny.Game(noise=False).to(dtype)
    return Trainer(model, dataclasses.replace(GAME, **changes), run, tiny.GameObjective(model))


def train(what: str, folder: Path, **changes: Any) -> None:
    folder.mkdir(exist_ok=True, parents=True)
    trained = build(what, Run(folder), **changes)
    with trained.run.lock():  # as the command holds it, around both
        if trained.run.has_checkpoint:
            trained.resume()
        trained.fit(*images(what))


def images(what: str) -> tuple[Dataset, Dataset]:
    """To train on, and held out."""
    if what == "told":
        return tiny.told("class", "text", "small", n=IMAGES), tiny.told("class", "text", "small")
    if what in ("gan", "infogan", "aae"):
        generator = torch.Generator().manual_seed(1)
        noise = torch.randint(3, (2 * IMAGES, 1, 16, 16), generator=generator).to(torch.uint8)
        noise[:, :, :, ::3] = 2
        return tuple(Dataset(part, None, 3, None, "stripes") for part in noise.chunk(2))  # type: ignore[return-value]
    return tiny.images(IMAGES), tiny.images()


def signalled(folder: Path) -> None:
    """Train until the second process alone gets SIGTERM, in the second step of the second epoch."""
    folder.mkdir(exist_ok=True)
    trained = build("coder", Run(folder))
    gradient = trained.players[0].gradient

    def with_signal(*arguments: Any) -> Any:
        if distributed.rank() == 1 and trained.position.step == SIGNALLED - 1:
            signal.raise_signal(signal.SIGTERM)
        return gradient(*arguments)

    trained.players[0].gradient = with_signal
    try:
        with on_signals(trained.ask_to_stop):
            trained.fit(tiny.images(IMAGES), tiny.images())
    except Stopped as stop:
        (folder / f"stopped{distributed.rank()}.txt").write_text(f"{stop.number} {trained.position.step}")


def go_on(folder: Path) -> None:
    """Resume a run, and write down from which step."""
    trained = build("coder", Run(folder))
    trained.resume()
    (folder / f"resumed{distributed.rank()}.txt").write_text(f"{trained.position.step}")
    trained.fit(tiny.images(IMAGES), tiny.images())


def failures() -> str:
    """What this process says of mistakes, its own and the first one's."""

    def fail() -> None:
        raise OSError("no space")

    said = []
    short = lambda: build("gan", drop_last=False).fit(*images("gan"))  # noqa: E731
    few = lambda: build("codes", drop_last=False).fit(*images("codes"))  # noqa: E731
    for action in (lambda: build("coder", batch_size=10), lambda: distributed.first_only(fail), short, few):
        try:
            action()
        except (ValueError, OSError, ElsewhereError) as error:
            said.append(f"{type(error).__name__} {error}")
    return "\n".join(said)


def draw(commands: list[list[str]]) -> None:
    """Run several commands in these processes, with batches of a few images."""
    from fastgen import cli
    from fastgen.codec import coder
    from fastgen.commands import sample

    sample.BATCH, coder.BATCH = 8, 4
    with distributed.processes(torch.device("cpu")):
        for words in commands:
            assert cli.main(words) == 0, words


def main(what: str, folder: Path) -> None:
    with distributed.processes(torch.device("cpu")):
        if what == "begin":
            train("coder", folder / "coder")
            train("game", folder / "game")
            train("told", folder / "told")
            for what in ("gan", "infogan", "aae"):
                train(what, folder / what)
            train("began", folder / "began")
            train("pixels", folder / "pixels")
            train("codes", folder / "codes")
            train("game", folder / "stopped", epochs=1)
            signalled(folder / "signalled")
            (folder / f"failures{distributed.rank()}.txt").write_text(failures())
        else:
            train("game", folder / "stopped")
            go_on(folder / "signalled")


if __name__ == "__main__":
    if sys.argv[1] == "draw":
        draw(json.loads(sys.argv[2]))
    else:
        main(sys.argv[1], Path(sys.argv[2]))
    distributed.leave(0)
