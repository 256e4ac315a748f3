"""The images that a command needs of a run: its own, in their old place or a new one, or others for its model."""

import sys
from dataclasses import replace

from ..data import Dataset, load, load_for_training
from ..data.identity import check_content, in_classes_of
from ..training import Run
from .model_options import options_of


def load_images(
    run: Run, split: str = "test", data: str | None = None, root: str | None = None, *, own: bool = False
) -> Dataset:
    """Load images for the model of a run, prepared as its own were, at its levels, with labels by its classes.

    Args:
        run: says which data set, how many levels, and what was held out of training.
        split: "test"; or "train" and "valid", the images the run was trained on and watched.
        data: other data than the run's; or with ``own`` the run's in another place.
        root: of the data; the run's by default.
        own: ``data`` are the run's. These are checked to be what they were when the run began.

    Raises:
        ValueError: their size, or their levels, are not the run's; a class that it does not know; its own images are
            not what they were.
    """
    config = run.config()
    options, about, where = config["options"], config["data"], f"the run in {run.folder}"
    name, root = data or options["data"], root or options.get("data_root")
    if split == "valid" and options["held_out"] == "test":
        raise ValueError(f"split: expected train or test, since {where} held out no others, got valid")
    notes: tuple[str, ...] = ()
    trained_as = options_of(run)
    prepared, form, done = trained_as.preparation(), trained_as.form, None
    if own or data is None:
        trained, watched = replace(trained_as, data=name, data_root=root).load_data()
        notes = check_content(trained, watched, config, where)
        done = {"train": trained, "valid": watched}.get(split)
        images = done or load(name, root=root, split="test", **prepared)
    elif split == "test":
        images = load(name, root=root, split="test", **prepared)
    else:
        images = load_for_training(name, root=root, watch=options["held_out"], **prepared)[split == "valid"]
    if done is None and form is not None:  # not in two parts yet
        channels, height, width = about["shape"]
        shape = form.image_shape((channels, height, width))
        about = {"shape": list(shape), "levels": form.image_levels(about["levels"])}
    if list(images.shape) != about["shape"] or images.levels < about["levels"]:
        expected, got = (
            f"{shape[0]}x{shape[1]}x{shape[2]} images of {levels} levels"
            for shape, levels in ((about["shape"], about["levels"]), (images.shape, images.levels))
        )
        raise ValueError(f"data: expected {expected}, as in {where}; {name} has {got}")
    images = in_classes_of(images.quantise(about["levels"]), config, where)
    images = trained_as.as_told(images) if done is None else images
    return replace(images, notes=(*images.notes, *notes))


def say_notes(images: Dataset) -> None:
    """Say what was found and left out as the images were read; not among a command's results."""
    for note in images.notes:
        sys.stderr.write(f"{note}\n")


def class_names(run: Run) -> list[str] | None:
    """The names of the run's classes, by number; None where it keeps none."""
    return (run.config().get("content") or {}).get("class_names")
