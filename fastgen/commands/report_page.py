"""One page about a run, whole in itself: no server, no script, nothing fetched."""

import base64
import json
from html import escape
from pathlib import Path
from typing import Any

from .._console import duration
from ..pictures import chart
from ..training import Run
from ..training.epoch_words import watched
from .game_section import standing
from .run_words import best as find_best
from .run_words import name_of

PICTURES = 4
"""Epochs of which a page shows the pictures, from the first to the last."""

STYLE = """
:root { color-scheme: light }
body { max-width: 66rem; margin: 2rem auto; padding: 0 1rem; background: #fff; color: #1c1e22;
       font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.6rem; margin: 0 } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem }
.sub { color: #6a6f78; margin: .2rem 0 1.4rem }
.facts { display: flex; flex-wrap: wrap; gap: 1rem 2.4rem }
.facts div { min-width: 7rem } .facts b { display: block; font-size: 1.35rem; font-weight: 600 }
.facts span { color: #6a6f78; font-size: .85rem }
pre { background: #f2f3f5; padding: .6rem .8rem; margin: 0; white-space: pre-wrap; font-size: .85rem }
pre span { white-space: nowrap }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(24rem, 100%), 1fr)); gap: .6rem }
.charts svg { width: 100% }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(24rem, 100%), 1fr)); gap: 1rem }
figure { margin: 0; min-width: 0 } figure img { max-width: 100% }
figcaption { color: #6a6f78; font-size: .85rem }
.wide, .all { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
.all { max-height: 24rem; overflow-y: auto } .all th { position: sticky; top: 0; background: #fff }
@media print { .all { max-height: none } }
th, td { text-align: right; padding: .15rem .8rem .15rem 0; border-bottom: 1px solid #e6e8eb; font-weight: normal;
         white-space: nowrap; vertical-align: top }
th { color: #6a6f78 } .left th, .left td { text-align: left } .left td { white-space: normal }
.best td { font-weight: 600 }
"""


def write(run: Run, command: str | None = None) -> str:
    """The page, as HTML; ``command`` is the line that made the run, where that is known.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: a file of the run is not what was written.
    """
    config, metrics = run.config(), run.metrics()
    name, first, best = name_of(config), watched(metrics), find_best(metrics)
    made = [f"{key} {config[key]}" for key in ("fastgen", "torch", "device") if key in config]
    parts = [
        f"<h1>{escape(name)}</h1>",
        f'<p class="sub">{escape(str(run.folder))}{escape("".join(f" · {part}" for part in made))}</p>',
        _facts(config, metrics, first, best),
        _section("Made by", "command", [_line(command)] if command else []),
        _section("How the game stands", "wide", standing(metrics, config)),
        _section("Curves", "charts", [chart.svg(one) for one in chart.charts(metrics, config.get("about"))]),
        _section("Pictures", "pictures", [*_all_pictures(run), *_animation(run)]),
        _section("Epochs", "all", [_epochs(metrics, best)] if metrics else []),
        _section("What the numbers are", "wide", [_table(config["about"])] if config.get("about") else []),
        _section("Model", "wide", [_table(config["model"]["config"])]),
        _section("Data", "wide", [_table(config["data"])]),
        _section("Options", "wide", [_table(config["options"])]),
    ]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head += f"<title>{escape(name)}</title><style>{STYLE}</style>"
    body = "\n".join(filter(None, parts))
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def _facts(config: dict[str, Any], metrics: list[dict[str, Any]], first: str | None, best: dict | None) -> str:
    if best is None or first is None:
        return "<p>No epoch is finished yet.</p>"
    seconds = sum(record.get("seconds", 0) for record in metrics)
    checks = sum(record.get("held_out_seconds", 0) for record in metrics)
    loss = first.removeprefix("held_out_")
    unit = "nats" if loss == "nats" else loss.replace("_", " ")
    facts = [(f"{_number(best[first])} ± {_error(best.get(f'{first}_error'))}", f"best held-out {unit}")]
    if "held_out_bits_per_dim" in best:
        facts.append((_number(best["held_out_bits_per_dim"]), "bits per dimension"))
    if best.get("held_out_accuracy") is not None:
        facts.append((f"{best['held_out_accuracy']:.1%}", "held-out accuracy"))
    if isinstance(config.get("parameters"), int):
        facts.append((f"{config['parameters']:,}", "parameters"))
    facts += [
        (f"{best['epoch']} of {config['options'].get('epochs', len(metrics))}", "best epoch"),
        (f"{len(metrics)}, {metrics[-1]['step']:,} steps", "epochs done"),
        (duration(seconds), "training"),
        (duration(checks), "evaluating"),
        (_number(float(metrics[-1].get("images_per_second", 0))), "images per second"),
    ]
    cells = "".join(f"<div><b>{escape(value)}</b><span>{escape(what)}</span></div>" for value, what in facts)
    about = config.get("about") or {}
    said = "; ".join(f"{part.replace('_', ' ')}: {about[part]}" for part in (loss, "held_out") if part in about)
    return f'<div class="facts">{cells}</div>' + (f'<p class="sub">{escape(said)}</p>' if said else "")


def _section(title: str, kind: str, parts: list[str]) -> str:
    return f'<h2>{title}</h2><div class="{kind}">{"".join(parts)}</div>' if parts else ""


def _line(command: str) -> str:
    """A line to paste; it is broken at its spaces, and within what is as long as a path."""
    words = (f"<span>{escape(word)}</span>" if len(word) < 32 else escape(word) for word in command.split(" "))
    return f"<pre>{' '.join(words)}</pre>"


def _all_pictures(run: Run) -> list[str]:
    """Held-out images beside what the model made last; then what it made before, from the first epoch on."""
    epochs, held_out = _pictures(run), run.folder / "held_out.png"
    some = _some(epochs)
    paths = [*([held_out] if held_out.is_symlink() or held_out.is_file() else []), *some[-1:], *some[:-1]]
    left = len(epochs) - len(some)
    note = f'<p class="sub">{left} more in {escape(str(run.samples))}</p>' if left else ""
    return [*(_picture(path, run.folder) for path in paths), *([note] if note else [])]


def _animation(run: Run) -> list[str]:
    path = run.folder / "samples.gif"
    return [_picture(path, run.folder, b"GIF89a", "gif")] if path.is_symlink() or path.is_file() else []


def _some(paths: list[Path]) -> list[Path]:
    """The first, the last, and some between."""
    if len(paths) <= PICTURES:
        return paths
    return [paths[round(index * (len(paths) - 1) / (PICTURES - 1))] for index in range(PICTURES)]


def _pictures(run: Run) -> list[Path]:
    return sorted(path for path in run.samples.glob("*.png") if path.is_symlink() or path.is_file())


def _picture(path: Path, folder: Path, begins: bytes = b"\x89PNG\r\n\x1a\n", kind: str = "png") -> str:
    """A picture of the run in ``folder``: what lies elsewhere, and what is no picture, is not anyone's to embed.

    Raises:
        ValueError: a link leads out of the folder, or the file is of another kind.
    """
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{path}: expected a picture in the folder of the run, got a link to {path.resolve()}")
    content = path.read_bytes()
    if not content.startswith(begins):
        raise ValueError(f"{path}: expected a {kind.upper()}, got another file of {len(content)} bytes")
    data = base64.b64encode(content).decode()
    name = escape(path.stem.replace("-", " ").replace("_", " "))
    return f'<figure><img alt="{name}" src="data:image/{kind};base64,{data}"><figcaption>{name}</figcaption></figure>'


def _epochs(metrics: list[dict[str, Any]], best: dict | None) -> str:
    keys = list(dict.fromkeys(key for record in metrics for key in record if key != "measure"))
    head = "".join(f"<th>{escape(key.replace('_', ' '))}</th>" for key in keys)
    rows = []
    for record in metrics:
        cells = "".join(f"<td>{escape(_number(record.get(key)))}</td>" for key in keys)
        rows.append(f"<tr{' class=best' if record is best else ''}>{cells}</tr>")
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _table(values: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{escape(key)}</th><td>{escape(value if isinstance(value, str) else json.dumps(value))}</td></tr>"
        for key, value in values.items()
    )
    return f'<table class="left">{rows}</table>'


def _number(value: Any) -> str:
    """Counts whole, what was measured with four digits."""
    if not isinstance(value, float):
        return "–" if value is None else f"{value:,}"
    short = f"{value:.4g}"
    return f"{float(short):,.0f}" if 1000 <= abs(value) < 1e9 else short


def _error(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"
