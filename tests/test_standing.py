"""How a game stands: said after each epoch, in the report, and before it begins; and epochs as an animation."""

import base64
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from commands import said
from fastgen import pictures
from fastgen._console import several
from fastgen.commands.animation import FRAMES, animate
from fastgen.losses import equilibrium
from fastgen.models import DCGAN, Game
from fastgen.models.adversarial_words import EARLY, history, words
from fastgen.pictures import chart as charts
from fastgen.training import Run
from test_adversarial import blobs, dcgan
from trainers import CONFIG

for package in ("tyro", "tqdm", "safetensors"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")
Image = pytest.importorskip("PIL.Image", reason="pillow comes with fastgen[train]")


def record(d: float = 1.2, g: float = 0.8, **others: Any) -> dict[str, Any]:
    return {
        "epoch": 1, "step": 100, "rounds": 100, "images_seen": 6400,
        "train_discriminator_loss": d, "train_generator_loss": g,
        "train_discriminator_accuracy_on_real": 0.7, "train_discriminator_accuracy_on_fake": 0.8,
        "train_discriminator_gradient_norm": 1.5, "train_generator_gradient_norm": 2.5, "held_out_diversity": 0.9,
        **others,
    }  # fmt: skip


def test_both_losses_stand_beside_those_of_the_equilibrium() -> None:
    (line,) = words(record(), Game().config)
    assert line == (
        "D loss 1.2 (at equilibrium 1.39), G loss 0.8 (0.693); D is right about 70% of real and 80% of drawn images;"
        " gradient norms 1.5 and 2.5; diversity 0.90 of real images'; 100 rounds, D has seen 6,400 images"
    )
    d, g = equilibrium("non-saturating", 0.1)
    (line,) = words(record(), Game(label_smoothing=0.1).config)
    assert f"D loss 1.2 (at equilibrium {d:.3g}), G loss 0.8 ({g:.3g})" in line
    assert (d, g) != equilibrium("non-saturating")


def test_a_penalty_is_no_part_of_what_is_compared() -> None:
    told = record(d=14.0, train_discriminator_game=1.9, train_discriminator_r1=1.21, train_generator_game=0.1)
    (line,) = words(told, Game(loss="hinge", r1=10).config)
    assert line.startswith("D loss 1.9 (at equilibrium 2), G loss 0.1 (0); ")
    assert "; r1 1.21; " in line
    values = blobs(8).values.long()
    model = DCGAN(1, 5, latent=4, channels=3, image_size=16, normalization="layer", game={"r1": 10, "loss": "hinge"})
    found = model.losses(values)
    assert (found["loss"] - found["game"]).tolist() == pytest.approx((10 * found["r1"]).tolist(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "most", "trouble"),
    [
        ({"held_out_diversity": 0.1}, 0.1, None),  # nothing is learnt yet
        ({"held_out_diversity": 0.1, "rounds": EARLY}, 0.1, "the generator has collapsed: .* 0.10 .*, after 500"),
        ({"held_out_diversity": 0.1}, 0.8, "the generator has collapsed: .* by 0.10 .*, and did by 0.80 before"),
        ({"held_out_diversity": 0.4, "rounds": 9999}, 0.8, None),
        ({"train_discriminator_loss": 0.05}, 0.9, "the discriminator has won: its loss is 0.05 of 1.39"),
        (
            {"train_discriminator_accuracy_on_real": 0.4, "train_discriminator_accuracy_on_fake": 0.4},
            0.9,
            "the discriminator is wrong more often than right",
        ),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_said_when_it_does(changes: dict[str, Any], most: float, trouble: str | None) -> None:
    _, *troubles = words(record(**changes), Game().config, most)
    assert len(troubles) == (trouble is not None)
    assert trouble is None or re.match(trouble, troubles[0])
    _, *alone = history([record(held_out_diversity=most), record(**changes)], Game().config)[1]
    assert alone == troubles


def test_a_critics_scores_are_no_decisions() -> None:
    told = record(d=-2.0, g=1.0, train_discriminator_wasserstein=2.0)
    line, *troubles = words(told, Game(loss="wasserstein", gradient_penalty=10).config)
    assert line.startswith("critic's estimate of the distance 2; G loss 1; gradient norms")
    assert not troubles


def test_rounds_are_counted_and_the_largest_diversity_is_remembered() -> None:
    trained, records = dcgan(discriminator_steps=5), []
    trained.fit(blobs(), blobs(9), records.append)
    assert [(one["rounds"], one["images_seen"]) for one in records] == [(1, 40), (2, 80)]
    kept = trained.objective.state_dict()
    assert kept == {"most_diverse": max(one["held_out_diversity"] for one in records)}
    again = dcgan().objective
    again.check_state(kept)
    again.load_state_dict({"most_diverse": 0.75})
    assert "did by 0.75 before" in again.remarks(record(held_out_diversity=0.1))[1]
    again.check_state({})  # of a run that was saved before it was remembered
    again.load_state_dict({})
    with pytest.raises(ValueError, match="objective"):
        again.check_state({"most_diverse": "x"})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    from fastgen.cli import main

    folder = tmp_path_factory.mktemp("run") / "gan"
    assert main(["train", "gan", *SMALL, "--run", str(folder), "--epochs", "2", "--samples", "4"]) == 0
    return Run(folder)


SMALL = ["--hidden", "8", "--discriminator-hidden", "4", "--latent", "3", "--limit", "40", "--batch-size", "20"]
SMALL += ["--held-out-limit", "20", "--generator-lr", "0.001", "--label-smoothing", "0.1"]


def test_a_run_says_first_what_is_played(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plan = said(capsys, "train", "gan", *SMALL, "--run", tmp_path / "no", "--dry-run", "--discriminator-steps", 3)
    told = dict(re.split(r"  +", line, maxsplit=1) for line in plan.splitlines() if "  " in line)
    assert told["game"].startswith("non-saturating, no gradient penalty, no r1, no weight clip, label smoothing 0.1")
    assert told["discriminator"] == (
        "moves in each batch, adam, lr 0.0002, betas 0.5 and 0.999, no weight decay, no clip"
    )
    assert told["generator"] == (
        "moves in 1 of 3 batches, adam, lr 0.001, betas 0.5 and 0.999, no weight decay, no clip"
    )
    again = said(capsys, "train", "gan", *SMALL, "--run", tmp_path / "gan", "--epochs", 1, "--samples", 0)
    assert "game: non-saturating, no gradient penalty, " in again
    assert told["game"].endswith("class weight 1, no dequantize"), "and not what is None"
    assert f", on cpu, {several(torch.get_num_threads(), 'thread')}\n" in again
    assert "generator: moves in each batch, adam, lr 0.001, " in again


def test_the_report_says_how_the_game_stands_and_shows_the_animation(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, "report", run.folder)
    page = (run.folder / "report.html").read_text()
    section = page.split("<h2>How the game stands</h2>")[1].split("<h2>")[0]
    assert "D loss" in section
    assert re.search(r"<th>D right, drawn</th>.*<th>images seen by D</th>", section)
    assert len(re.findall(r"<tr><td>\d", section)) == 2
    (moving,) = re.findall(r'src="data:image/gif;base64,([^"]*)"', page)
    assert base64.b64decode(moving) == (run.folder / "samples.gif").read_bytes()
    picture = Image.open(run.folder / "samples.gif")
    assert (picture.n_frames, picture.info["loop"]) == (2, 0)


def test_an_animation_is_bounded(tmp_path: Path) -> None:
    run = Run(tmp_path / "run").create(CONFIG)
    assert animate(run) is None
    run.samples.mkdir()
    for epoch in range(1, 80):
        size = 10 if epoch < 5 else 20  # another --samples at first
        pictures.save(np.full((size, size, 3), epoch, np.uint8), run.picture(epoch))
    assert animate(run) == run.folder / "samples.gif"
    frames = Image.open(run.folder / "samples.gif")
    assert FRAMES - 4 <= frames.n_frames <= FRAMES
    assert frames.size == (20, 20)
    shades = []
    for index in (0, frames.n_frames - 1):
        frames.seek(index)
        shades.append(np.asarray(frames.convert("RGB")).mean())
    assert shades == [pytest.approx(5, abs=2), 79], "from the first of this size to the last"
    noise = np.random.default_rng(0).integers(0, 255, (3, 256, 256, 3), dtype=np.uint8)
    pictures.save_animation([*noise], tmp_path / "noise.gif", most=60_000)
    assert (tmp_path / "noise.gif").stat().st_size <= 60_000
    assert Image.open(tmp_path / "noise.gif").size == (64, 64), "halved twice"
    with pytest.raises(ValueError, match="frames: expected pictures of one size"):
        pictures.save_animation([noise[0], noise[1][:9]], tmp_path / "no.gif")


def test_both_players_are_in_one_chart() -> None:
    drawn = {chart.title: chart for chart in charts.charts([record(), record(epoch=2)])}
    losses = drawn["losses of the players"]
    assert losses.lines == {"discriminator": [(1, 1.2), (2, 1.2)], "generator": [(1, 0.8), (2, 0.8)]}
    assert set(drawn["share that D tells right"].lines) == {"real", "drawn"}
    assert [*drawn] == ["losses of the players", "share that D tells right", "gradient norms", "diversity"]
