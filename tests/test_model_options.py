"""Options of ``fastgen train MODEL`` from a model's constructor: a new model is one file, and a line in a table."""

import json
import re
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar

import pytest

from commands import refused, said
from fastgen import models
from fastgen.cli import main
from fastgen.commands import dry_run
from fastgen.commands.command_line import command_line
from fastgen.commands.constructor_options import options_of_model
from fastgen.commands.model_options import MODELS, options_class
from fastgen.commands.train_options import Train
from fastgen.training import Objective, Run, load_model
from pixel_means import PixelMeans

for package in ("tyro", "tqdm", "safetensors", "sklearn", "PIL"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def _one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.NAMES, "pixel-means", PixelMeans)


def helped(capsys: pytest.CaptureFixture, *command: str) -> str:
    """What --help says, as one line without boxes."""
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    return " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())


@pytest.mark.usefixtures("_one_more")
def test_a_new_model_is_one_file_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert "pixel-means Pixel means, nobody 1900: independent pixels, of each class if it is told" in helped(
        capsys, "train"
    )
    told = helped(capsys, "train", "pixel-means")
    for text in (
        "small, an hour there or less: --rank 5 --first ones --lr 0.5",
        "--heat FLOAT One over the cooling; it is 1 in the paper. (default: 1.0)",
        "--rank {None}|INT Of the table of logits, a multiple of the colours; default: 4, or a little above.",
        "--first {zeros,ones} Weights to begin with. (default: zeros)",
        "--conditional, --no-conditional Condition on the images' labels. (default: False)",
    ):
        assert text in told, text
    assert not {"--cooling", "--in-channels", "--classes"} & {*told.split()}
    boxes = [told.index(f"{box} options --") for box in ("model", "optimisation", "data", "run")]
    assert boxes == sorted(boxes)
    run, train = tmp_path / "run", ["train", "pixel-means", "--limit", "60", "--samples", "4", "--lr", "0.1"]
    said(capsys, *train, "--conditional", "--heat", "2", "--epochs", "2", "--run", run)
    said(capsys, "train", "pixel-means", "--run", run, "--resume", "--epochs", "3")
    said(capsys, "sample", run, "--n", "12", "--npz", tmp_path / "drawn.npz")
    assert json.loads(said(capsys, "evaluate", run, "--json"))["nats"] > 0
    expected = {"in_channels": 1, "levels": 17, "rank": 4, "first": "zeros", "cooling": 0.5, "classes": 10}
    assert load_model(run).config == expected | {"image_size": [8, 8]}
    line = command_line(Run(run))
    assert line is not None
    assert sorted(line.split(" --")) == sorted(
        [
            "fastgen train pixel-means",
            "heat 2.0",
            "conditional",
            "epochs 3",
            "lr 0.1",
            "limit 60",
            "samples 4",
            f"run {run}",
        ]
    )


@pytest.mark.usefixtures("_one_more")
def test_a_recipe_begins_and_the_line_counts(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    start = ["train", "pixel-means", "--limit", "60", "--samples", "0"]
    said(capsys, *start, "--recipe", "paper", "--run", tmp_path / "paper")
    said(capsys, *start, "--recipe", "small", "--epochs", "1", "--lr", "0.25", "--run", tmp_path / "small")
    paper, small = (Run(tmp_path / name) for name in ("paper", "small"))
    assert (load_model(paper.folder).rank, paper.config()["options"]["epochs"]) == (10, 1)
    assert (load_model(small.folder).first, small.config()["options"]["lr"]) == ("ones", 0.25)
    line = command_line(paper)
    assert line is not None
    assert line.startswith("fastgen train pixel-means --recipe paper --limit 60")
    again = ["train", "pixel-means", "--config", paper.folder / "config.json", "--recipe", "small", "--lr", "0.25"]
    said(capsys, *again, "--run", tmp_path / "again")
    options = Run(tmp_path / "again").config()["options"]
    assert (options["rank"], options["first"], options["limit"]) == (5, "ones", 60), "the line's counts before a file"
    assert (options["lr"], options["epochs"]) == (0.25, 1)


def test_the_paper_of_runs_from_when_it_set_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """It was the default, and meant the constructor's sizes: so it does with their options."""
    data = {"shape": [1, 8, 8], "levels": 17}
    config = {
        "model": {"name": "pixelcnn", "config": {}},
        "data": data,
        "options": asdict(MODELS["pixelcnn"](recipe="paper")),
    }
    run = Run(tmp_path / "run").create(config)
    assert command_line(run) == "fastgen train pixelcnn"
    out = said(capsys, "train", "--config", run.folder / "config.json", "--layers", "1", "--dry-run")
    weights = sum(p.numel() for p in models.PixelCNN(1, 17, 64, 1).parameters())
    assert f"pixelcnn, {weights:,} parameters" in out
    assert "20 epochs of 22 batches of 64" in out
    assert "adamw, lr 0.001, constant" in out


def test_how_long_the_small_recipe_takes_is_of_what_the_model_minimises(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Offering(PixelMeans):
        """Offers its objective."""

        made: ClassVar[list[int]] = []

        def objective(self) -> Objective:
            self.made.append(self.rank)
            return Objective(self)

    monkeypatch.setitem(models.NAMES, "pixel-means", Offering)
    monkeypatch.setattr(dry_run, "LONG", 0)
    out = said(capsys, "train", "pixel-means", "--limit", "60", "--rank", "3", "--dry-run")
    assert "; --recipe small is another model, for " in out
    assert Offering.made == [3, 5]


def test_a_recipe_that_a_model_has_not(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.NAMES, "pixel-means", type("Plain", (PixelMeans,), {"recipes": {"small": {}}}))
    assert "recipe: expected one of 'small', got 'paper'" in said(
        capsys, "train", "pixel-means", "--recipe", "paper", code=2
    )


def test_a_value_that_is_refused_is_of_the_command(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["train", "vae", "--kl-warmup", "2"])
    err = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "Error parsing fastgen train vae: kl_warmup: expected a finite number from 0 to 1, got 2.0" in err


def test_what_a_constructor_must_say() -> None:
    def refused(members: dict[str, Any], message: str) -> None:
        with pytest.raises((TypeError, ValueError), match=message):
            options_class("pixel-means", type("Odd", (PixelMeans,), members))

    def untyped(self: Any, width=3) -> None: ...

    def required(self: Any, width: int) -> None: ...

    def taken(self: Any, warmup: int = 3, rank: int = 3) -> None: ...

    refused({"__init__": untyped}, "expected a type and a default of width, which is an option")
    refused({"__init__": required}, "expected a type and a default of width, which is an option")
    refused({"__init__": taken}, "Odd: expected other options than those of every model, got warmup; Odd.arguments can")
    refused({"recipes": {"small": {"width": 1}}}, "recipes: expected options of pixel-means in small, got width")


OPTIONS = {
    "pixelcnn": "channels layers distribution components dropout label_smoothing",
    "gated-pixelcnn": "channels layers kernel_size conditional distribution components map_layers embedding given"
    " dropout label_smoothing",
    "pixelcnn++": "channels blocks resolutions dropout conditional distribution components label_smoothing",
    "pixelsnail": "channels blocks layers keys values dropout conditional distribution components label_smoothing",
    "image-gpt": "channels layers heads conditional distribution components dropout label_smoothing",
    "row-lstm": "channels layers residual skip conditional distribution components dropout label_smoothing",
    "diagonal-bilstm": "channels layers residual skip conditional distribution components dropout label_smoothing",
    "multi-scale": "scales base channels layers kernel_size map_layers conditional dropout label_smoothing",
    "autoencoder": "age latent hidden channels activation sigmoid",
    "vae": "latent hidden channels activation likelihood beta kl_warmup free_bits importance_samples conditional"
    " dequantize",
    "classifier": "source labels frozen scratch",
    "vqvae": "codes code_channels channels layers halvings commitment decay deviation",
}
"""What runs have been started with: these stay."""


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_has_a_box_and_words(name: str) -> None:
    kind = MODELS[name]
    own = {each.name for each in fields(kind)} - {each.name for each in fields(Train)}
    assert own == set(OPTIONS[name].split())
    assert {each.name for each in fields(Train)} == {"recipe"} | {
        each for names in Train.boxes.values() for each in names
    }
    assert set(kind.model.recipes) == {"paper", "small"}
    for option in options_of_model(kind.model):
        assert re.fullmatch(r"[A-Zk].*\.", option.text, re.DOTALL), option
        assert "`" not in option.text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("dcgan --conditioning projection", "conditioning: expected it with --conditional only, got projection"),
        ("gan --conditional --class-weight 2", "class_weight: expected it with --conditioning auxiliary only, got 2.0"),
        (
            "resnet-gan --fake-class-weight 0",
            "fake_class_weight: expected it with --conditioning auxiliary only, and that with --conditional only,"
            " got 0.0",
        ),
        ("infogan --class-weight 2", "class_weight: expected it with models that have --conditioning only, got 2.0"),
        ("infogan --continuous 0 --learned-variance", "learned_variance: expected it with --continuous only, got True"),
        ("infogan --categories --category-weight 2", "category_weight: expected it with --categories only, got 2.0"),
        ("row-lstm --components 3", "components: expected it with --distribution logistic-mixture only, got 3"),
        ("gated-pixelcnn --map-layers 3", "map_layers: expected it with --given only, got 3"),
        (
            "adversarial-autoencoder --components 3",
            "components: expected it with --prior mixture or --prior swiss-roll only, got 3",
        ),
        (
            "adversarial-autoencoder --prior mixture --conditional --components 3",
            "components: expected it with --no-conditional only, got 3",
        ),
        (
            "adversarial-autoencoder --recipe paper --prior mixture --prior-std 2",
            "prior_std: expected it with --prior normal only, got 2.0",
        ),
    ],
)
def test_an_option_without_effect_is_refused(
    line: str, words: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a run begins, which would take minutes."""
    monkeypatch.setattr("fastgen.commands.train._train", lambda *_: pytest.fail("a run begins"))
    assert refused(capsys, "train", *line.split(), "--data", "digits").strip() == f"fastgen: {words}"


def test_an_option_of_a_recipe_may_be_without_effect(capsys: pytest.CaptureFixture) -> None:
    """The paper's width of a normal prior, beside another prior."""
    line = "adversarial-autoencoder --recipe paper --prior mixture --latent 2 --data digits --dry-run"
    assert "nothing was written" in said(capsys, "train", *line.split())
