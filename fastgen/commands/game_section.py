"""The section of a report about a game of two: how it stands, and what was said of it after which epoch."""

from html import escape
from typing import Any

from ..losses import LOSSES
from ..models.adversarial_words import history

COLUMNS = {
    "D loss": ("train_discriminator_game", "train_discriminator_loss"),
    "G loss": ("train_generator_game", "train_generator_loss"),
    "D right, real": ("train_discriminator_accuracy_on_real",),
    "D right, drawn": ("train_discriminator_accuracy_on_fake",),
    "distance": ("train_discriminator_wasserstein",),
    "diversity": ("held_out_diversity",),
    "rounds": ("rounds",),
    "images seen by D": ("images_seen",),
}
"""Of the table over epochs, each with the entries of a record that it shows, the first that there is."""


def standing(metrics: list[dict[str, Any]], config: dict[str, Any]) -> list[str]:
    """HTML of the last state in words, and of the epochs in a table; nothing for a run that is no game."""
    game = config["model"]["config"].get("game")
    if not metrics or not isinstance(game, dict) or game.get("loss") not in LOSSES:
        return []
    said = history(metrics, game)
    if not said[-1]:
        return []
    first, *troubles = said[-1]
    lines = [f"<p>{escape(first)}</p>", *(f"<p><b>{escape(trouble)}</b></p>" for trouble in troubles)]
    columns = {
        title: [next((record[key] for key in keys if key in record), None) for record in metrics]
        for title, keys in COLUMNS.items()
    }
    columns = {title: values for title, values in columns.items() if any(value is not None for value in values)}
    head = "".join(f"<th>{escape(title)}</th>" for title in ("epoch", *columns, "said of it"))
    rows = []
    for index, record in enumerate(metrics):
        cells = [str(record["epoch"]), *(_number(values[index]) for values in columns.values())]
        told = "; ".join(each.partition(":")[0] for each in said[index][1:])
        rows.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}<td>{escape(told)}</td></tr>")
    table = f'<div class="all"><table><tr>{head}</tr>{"".join(rows)}</table></div>'
    return [*lines, table]


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
