"""What a person is told of an epoch."""

from ..measures import plus_minus
from .run import Record


def watched(metrics: list[Record]) -> str | None:
    """Which entry of the records is the loss that the best weights are chosen by."""
    return next((key for record in metrics for key in record if key.startswith("held_out_")), None)


def describe(record: Record, epochs: int, held_out: str = "held out") -> str:
    """A line of metrics.jsonl for people; ``held_out``: what to call the images that were watched."""
    first = (watched([record]) or "").removeprefix("held_out_")
    held, error = record[f"held_out_{first}"], record.get(f"held_out_{first}_error")
    said = f"epoch {record['epoch']:{len(str(epochs))}}/{epochs}   "
    if first == "nats":
        said += f"train {record['train_nats']:.2f}   " if "train_nats" in record else ""
        bits = record.get("held_out_bits_per_dim")
        said += f"{held_out} {held:.2f}{'' if error is None else plus_minus(error, '.2f')} nats" + (
            "" if bits is None else f" = {bits:.4f} bits/dim"
        )
    else:
        said += f"train {record[f'train_{first}']:.4g}   " if f"train_{first}" in record else ""
        said += f"{held_out} {first} {held:.4g}" + ("" if error is None else plus_minus(error, ".2g"))
    said += f", {record['measure']}" if "measure" in record else ""
    if first != "accuracy" and "held_out_accuracy" in record:
        said += f", accuracy {record['held_out_accuracy']:.1%}"
    return f"{said}   {record['seconds'] + record.get('held_out_seconds', 0):.1f} s"
