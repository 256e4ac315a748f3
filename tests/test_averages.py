"""The averages of the weights that are evaluated and sampled from: the moving one, and Polyak's mean."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tiny
from commands import said
from fastgen.training import Recipe, Run, Trainer, checkpoint, load_model
from trainers import RECIPE, assert_same, lines, new_run, trainer

for package in ("tyro", "tqdm", "safetensors", "sklearn"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")

POLYAK = replace(RECIPE, average="polyak", average_from=1.5, ema=0.0, save_every=1)


def kept_weights(trained: Trainer, data: Any) -> list[dict[str, Tensor]]:
    """Those after every step, the step's own copy in float64."""
    found: list[dict[str, Tensor]] = []
    update = trained.average.update

    def updated(decay: float) -> None:
        update(decay)
        found.append({name: p.detach().double() for name, p in trained.model.named_parameters()})

    trained.average.update = updated
    trained.fit(data, data)
    return found


@pytest.mark.parametrize("begins", [0.0, 0.6, 3.0])
def test_polyak_is_the_mean_of_the_weights(begins: float) -> None:
    """From the step after so many epochs on; what is evaluated is the model with this mean."""
    data = tiny.images()
    trained = trainer(recipe=replace(POLYAK, average_from=begins))
    weights = kept_weights(trained, data)
    first = round(begins * POLYAK.batches(len(data)))
    assert len(weights) == 4 * POLYAK.batches(len(data)) > first
    for name, average in trained.ema.named_parameters():
        mean = torch.stack([each[name] for each in weights[first:]]).mean(0)
        torch.testing.assert_close(average.double(), mean, rtol=1e-5, atol=1e-7)
        assert not torch.equal(average, weights[-1][name].float())


def test_before_the_mean_begins_the_weights_themselves_are_evaluated() -> None:
    data, seen = tiny.images(), []
    late = trainer(recipe=replace(POLYAK, average_from=2.0))
    late.fit(data, data, seen.append)
    plain: list[dict] = []
    trainer(recipe=replace(RECIPE, ema=0.0)).fit(data, data, plain.append)
    nats = [[record["held_out_nats"] for record in records] for records in (seen, plain)]
    assert nats[0][:2] == nats[1][:2]
    assert nats[0][3] != nats[1][3]


@pytest.mark.parametrize("stop", [3, 8, 11])
def test_a_mean_goes_on_where_it_was(tmp_path: Path, stop: int) -> None:
    data = tiny.images()
    unbroken = trainer(new_run(tmp_path / "unbroken"), POLYAK)
    unbroken.fit(data, data)
    run = new_run(tmp_path / "stopped")
    stopped = trainer(run, POLYAK)
    compute = stopped.players[0].gradient

    def interrupted(*arguments: Any) -> Any:
        if stopped.position.step == stop:
            raise KeyboardInterrupt
        return compute(*arguments)

    stopped.players[0].gradient = interrupted
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(data, data)
    resumed = trainer(run, POLYAK)
    resumed.resume()
    resumed.fit(data, data)
    assert_same(resumed, unbroken)
    assert lines(run) == lines(unbroken.run)
    loaded = checkpoint.load(run.checkpoints, "last").weights["ema"]
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in unbroken.ema.state_dict().items())


class Normalised(nn.Module):
    """Batch norms that follow their batches, and one that stays as it is; noise of torch's generator."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.first, self.frozen = nn.BatchNorm2d(1, momentum=0.3), nn.BatchNorm2d(1)
        self.frozen.running_mean.fill_(0.25)
        self.train()

    def train(self, mode: bool = True) -> "Normalised":
        super().train(mode)
        self.frozen.eval()
        return self

    def losses(self, values: Tensor, condition: Any = None, progress: float = 1.0) -> dict[str, Tensor]:
        x = self.frozen(self.first(values.float() * self.scale)) + 0.1 * torch.randn(values.shape)
        return {"loss": F.softplus(x).flatten(1).sum(1)}


@pytest.mark.parametrize("how", [POLYAK, replace(RECIPE, ema=0.9)], ids=["polyak", "ema"])
def test_batch_norms_of_an_average_are_of_its_own_weights(how: Recipe) -> None:
    """Those of batches of training images, seen through the averaged weights; nothing else moves by it."""
    data, how = tiny.images(14), replace(how, batch_size=4, accumulate=1, lr=0.1)
    trained = trainer(recipe=how, kind=Normalised)
    trained.fit(data, data)
    batches = (data.values[:12].float() * trained.ema.scale.detach()).split(4)  # the last two are no batch
    first = trained.ema.first
    torch.testing.assert_close(first.running_mean, torch.stack([each.mean() for each in batches]).mean()[None])
    torch.testing.assert_close(first.running_var, torch.stack([each.var() for each in batches]).mean()[None])
    assert not torch.equal(first.running_mean, trained.model.first.running_mean)
    assert (first.momentum, first.training, trained.ema.frozen.training) == (0.3, trained.ema.training, False)
    assert trained.ema.frozen.running_mean.item() == 0.25
    alone = trainer(recipe=replace(how, average="ema", average_from=0.0, ema=0.0), kind=Normalised)
    alone.fit(data, data)
    assert all(map(torch.equal, trained.model.state_dict().values(), alone.model.state_dict().values()))


def test_recipes_say_which_average() -> None:
    assert not Recipe(ema=0.0).averages
    assert Recipe(ema=0.0, average="polyak").averages
    assert Recipe(ema=0.5).average_at(1, 3) == Recipe(ema=0.5).ema_at(1)
    mean = Recipe(average="polyak", average_from=2)
    assert [mean.average_at(step, 3) for step in (1, 6, 7, 8, 9)] == [0, 0, 0, 1 / 2, 2 / 3]
    for wrong, message in (
        ({"average": "mean"}, "average: expected ema or polyak, got 'mean'"),
        ({"average_from": -1.0, "average": "polyak"}, "average_from: expected 0 or more, finite, got -1.0"),
        ({"average_from": 1.0}, "average_from: expected 0 with the average ema, got 1"),
        ({"average_from": 3, "average": "polyak", "epochs": 3}, "average_from: expected less than the 3 epochs, got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            Recipe(**wrong)


@pytest.mark.usefixtures("elsewhere")
def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train = ["train", "vae", "--data", "digits", "--hidden", "8", "--limit", "60", "--batch-size", "20"]
    train += ["--average", "polyak", "--average-from", "1", "--epochs", "2", "--samples", "0"]
    train += ["--run", tmp_path / "run"]
    assert "clip 1, mean of the weights from epoch 1" in said(capsys, *train, "--dry-run")
    said(capsys, *train)
    run = Run(tmp_path / "run")
    assert run.config()["options"]["average"] == "polyak"
    mean = load_model(run.folder).state_dict()
    last = checkpoint.load(run.checkpoints, "last").weights["model"]
    assert any(not torch.equal(tensor, mean[name]) for name, tensor in last.items())
