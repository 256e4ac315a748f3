"""The page about a run: whole in itself, true to the run's files, and never broken by them."""

import base64
import html
import itertools
import math
import re
import shlex
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from fastgen import pictures
from fastgen.cli import main
from fastgen.commands import model_options, parse, report_page
from fastgen.commands.command_line import command_line
from fastgen.pictures import chart as charts
from fastgen.training import Run

pytest.importorskip("tyro", reason="tyro comes with fastgen[train]")
pytest.importorskip("PIL.Image", reason="pillow comes with fastgen[train]")

CONFIG = {
    "fastgen": "1.0",
    "model": {"name": "toy", "config": {"levels": 2, "name": "<b>&"}},
    "data": {"shape": [1, 4, 4], "levels": 2},
    "options": {"data": "digits", "held_out": "test", "epochs": 30},
}
VOID = {"meta", "img"}
PNG = "data:image/png;base64,"


def record(epoch: int, nats: float) -> dict:
    return {
        "epoch": epoch, "step": 10 * epoch, "train_nats": nats - 1, "train_kl": 3.5, "held_out_nats": nats,
        "held_out_nats_error": 0.25, "held_out_bits_per_dim": nats / 16 / math.log(2), "held_out_kl": 3.0,
        "lr": 0.001, "seconds": 2.5, "held_out_seconds": 0.5, "images_per_second": 1234.5,
    }  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run(tmp_path / "a run").create(CONFIG)
    for epoch in range(1, 31):
        made.add_metrics(record(epoch, 80.0 + (epoch - 20) ** 2 / 10))
    made.samples.mkdir()
    for epoch in range(1, 31):
        pictures.save(np.full((4, 4, 3), epoch, np.uint8), made.samples / f"epoch-{epoch:04}.png")
    return made


class Page(HTMLParser):
    """Fails on tags that are not closed, and keeps what a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)
        self.fetched += [value for name, value in attributes if name in ("src", "href", "xlink:href", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_is_whole_in_itself(run: Run, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    assert main(["report", str(run.folder)]) == 0
    assert str(run.folder / "report.html") in capsys.readouterr().out
    text = (run.folder / "report.html").read_text()
    page = Page(text)
    *stills, moving = page.fetched
    assert len(stills) == 4, "the first, the last, and two between"
    assert all(source.startswith(PNG) for source in stills)
    assert moving.startswith("data:image/gif;base64,"), "and all of them, one after the other"
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert page.tags.count("svg") == 3
    for said in ("80 ± 0.25", "best held-out nats", "20 of 30", "75.0 s", "15.0 s", "1,234", "&lt;b&gt;&amp;"):
        assert said in text, said
    assert re.search(r"<tr class=best><td>20</td>", text)
    table = text.split("<h2>Epochs</h2>")[1].split("</table>")[0]
    assert re.findall(r"<tr[^>]*><td>(\d+)</td>", table) == [str(epoch) for epoch in range(1, 31)], "every epoch"
    assert f"26 more in {run.samples}" in text
    measured = re.findall(r"<td>([\d.,]+)</td>", table)
    assert max(len(re.sub(r"^0\.0*|[.,]", "", number)) for number in measured) == 4, "digits"
    assert main(["report", str(run.folder), "--out", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_text() == text


def test_a_page_is_as_wide_as_its_window(run: Run) -> None:
    """What cannot shrink to 390 pixels scrolls within itself: columns, charts, pictures, long words."""
    text = report_page.write(run, "fastgen train " + "x" * 500)
    assert "<span>train</span> xxx" in text
    rules = (
        r"body \{[^}]*overflow-wrap: anywhere",
        r"pre \{[^}]*white-space: pre-wrap",
        r"\.wide, \.all \{[^}]*overflow-x: auto",
        r"img \{[^}]*max-width: 100%",
        r"\.charts svg \{[^}]*width: 100%",
    )
    for rule in rules:
        assert re.search(rule, report_page.STYLE), rule
    assert re.findall(r"minmax\(([^,]*,[^,]*),", report_page.STYLE) == ["min(24rem, 100%)"] * 2
    assert text.count("<table") == text.count('<div class="wide"><table') + text.count('<div class="all"><table')
    assert '<meta name="viewport" content="width=device-width">' in text


def test_real_images_stand_beside_what_was_drawn_last(run: Run) -> None:
    pictures.save(np.full((4, 4, 3), 99, np.uint8), run.folder / "held_out.png")
    config = CONFIG | {"parameters": 12345}
    run.write_config(config)
    run.add_metrics(record(31, 99.0) | {"held_out_accuracy": 0.5})
    run.add_metrics(record(32, 1.23456) | {"held_out_accuracy": 0.98765})
    text = report_page.write(run, "fastgen train toy --lr 0.1")
    fetched = [base64.b64decode(source.removeprefix(PNG)) for source in Page(text).fetched]
    there = [run.folder / "held_out.png", *(run.picture(epoch) for epoch in (30, 1, 11, 20))]
    assert fetched == [path.read_bytes() for path in there]
    for said in ("<b>98.8%</b><span>held-out accuracy", "<b>12,345</b><span>parameters", "1.235 ± 0.25",
                 "<span>toy</span> <span>--lr</span> <span>0.1</span></pre>"):  # fmt: skip
        assert said in text, said


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vae", ["--hidden", "8", "4", "--latent", "2", "--data", "a folder/it's", "--lr", "0.005"]),
        ("autoencoder", ["--no-sigmoid", "--age", "linear", "--channels-last"]),
        ("gated-pixelcnn", ["--conditional", "--run", "there", "--epochs", "3", "--limit", "5"]),
        ("classifier", ["--labels", "30"]),
        ("gated-pixelcnn", ["--recipe", "small", "--lr", "0.001", "--epochs", "3"]),
        ("pixelcnn", []),
    ],
)
def test_the_line_that_made_a_run_makes_it_again(tmp_path: Path, name: str, options: list[str]) -> None:
    kind = model_options.MODELS[name]
    small = kind(**kind.model.recipes["small"], recipe="small") if "small" in options else None
    given = replace(parse(kind, "train", options, small), resume=True)
    run = Run(tmp_path / "run").create(CONFIG | {"model": {"name": name, "config": {}}, "options": asdict(given)})
    line = command_line(run)
    words = shlex.split(line)
    assert words[:3] == ["fastgen", "train", name]
    assert len(words) == 3 + len(options), "what is the default is not said"
    assert parse(kind, "train", words[3:], small) == replace(given, resume=False)
    assert main(["report", str(run.folder)]) == 0
    page = (run.folder / "report.html").read_text()
    assert html.unescape(re.sub("</?span>", "", re.search("<pre>(.*?)</pre>", page)[1])) == line
    run.write_config(CONFIG)
    assert command_line(run) is None, "of a model that is not fastgen's"


def test_the_line_of_a_classifier_says_what_would_else_be_its_sources(tmp_path: Path) -> None:
    source, run = Run(tmp_path / "source"), Run(tmp_path / "run")
    data = {"shape": [1, 8, 8], "levels": 17}
    for folder, options in (
        (source, model_options.MODELS["vae"](data="mnist", image_size=(8,), crop="20")),
        (run, model_options.MODELS["classifier"](source=str(source.folder), data="digits", crop="none")),
    ):
        name = "vae" if folder is source else "classifier"
        folder.create({"model": {"name": name, "config": {}}, "data": data, "options": asdict(options)})
    line = command_line(run)
    assert line == f"fastgen train classifier --data digits --crop none --from {source.folder}"
    words = shlex.split(line)[3:]
    assert parse(model_options.MODELS["classifier"], "train classifier", words) == model_options.options_of(run)


def test_a_run_that_has_only_begun(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = Run(tmp_path / "run").create(CONFIG)
    assert main(["report", str(run.folder)]) == 0
    text = (run.folder / "report.html").read_text()
    Page(text)
    assert "No epoch is finished yet." in text
    assert main(["report", str(tmp_path)]) == 2
    assert "expected the folder of a run" in capsys.readouterr().err
    assert main(["report", str(run.folder), "--out", str(tmp_path)]) == 2
    assert "out: expected a file to write, got the folder" in capsys.readouterr().err


def test_what_is_no_number_is_left_out(tmp_path: Path) -> None:
    run = Run(tmp_path / "run").create(CONFIG)
    run.add_metrics(record(1, 5.0) | {"held_out_nats_error": None, "held_out_kl": math.nan})
    assert main(["report", str(run.folder)]) == 0
    text = (run.folder / "report.html").read_text()
    Page(text)
    assert "nan" not in re.sub('base64,[^"]*', "", text)
    assert "5 ± –" in text


def test_charts_put_points_where_they_belong() -> None:
    (nats, kl, bits) = charts.charts([record(epoch, nats) for epoch, nats in ((1, 10.0), (2, 30.0), (5, 20.0))])
    assert (nats.title, bits.title, kl.title) == ("nats per image", "bits per dimension", "kl")
    assert nats.lines == {"train": [(1, 9.0), (2, 29.0), (5, 19.0)], "held out": [(1, 10.0), (2, 30.0), (5, 20.0)]}
    svg = charts.svg(nats)
    Page(svg)
    *_, held = re.findall(r'<polyline points="([^"]*)"', svg)
    (x1, y1), (x2, y2), (x5, y5) = (tuple(map(float, point.split(","))) for point in held.split())
    assert x2 - x1 == pytest.approx((x5 - x1) / 4, abs=0.2)
    assert y1 - y2 == pytest.approx(2 * (y5 - y2), abs=0.3), "30 is as far above 10 as twice 20 is below it"
    drawn = charts.pixels([nats, bits, kl])
    assert drawn.shape == (2 * 640, 2 * 960, 3)
    assert (drawn[:640, :960] == charts.COLORS[1]).all(axis=2).sum() > 500, "the line of held-out images is not drawn"
    assert (drawn[640:, 960:] == 255).all(), "there is no fourth chart"


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (79.98, 80.01), (-3.0, 1e6), (5.0, 5.0), (0.0, 0.0), (1e-9, 3e-9)]
)
def test_ticks_are_round_and_around_the_data(low: float, high: float) -> None:
    ticks = charts._ticks(low, high, 5)
    assert 3 <= len(ticks) <= 9
    assert ticks[0] <= low
    assert ticks[-1] >= high
    steps = {float(f"{b - a:.3g}") for a, b in itertools.pairwise(ticks)}
    assert len(steps) == 1
    assert f"{steps.pop():e}"[0] in "125"
