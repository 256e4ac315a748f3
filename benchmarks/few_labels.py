"""What an encoder that saw no labels is worth: a classifier with few of them, fine-tuned, frozen, and from scratch.

    FASTGEN_DATA=... python benchmarks/few_labels.py RUN [--labels 100] [--seeds 5]

Each seed draws other labelled images, as many of each class; the three classifiers of a seed have the same images,
recipe and architecture. Nothing is chosen by the test split: the weights are the average after the last step.
"""

import argparse
import statistics
from dataclasses import replace

import torch

from fastgen.commands.classifier_options import balanced
from fastgen.data import load
from fastgen.models import Classifier
from fastgen.training import Recipe, Run, Trainer, evaluate, load_model

WAYS = ("fine-tuned", "frozen", "from scratch")


def main() -> None:
    """Train and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of an autoencoder's or VAE's run")
    parser.add_argument("--labels", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--lr", type=float, default=1e-3)
    options = parser.parse_args()
    source, data = load_model(options.run), Run(options.run).config()["options"]["data"]
    train, test = (load(data, split=split, levels=source.levels) for split in ("train", "test"))
    size = min(options.labels, 50)
    epochs = max(1, options.steps * size // options.labels)
    recipe = Recipe(epochs=epochs, batch_size=size, lr=options.lr, schedule="cosine", ema=0.99)
    accuracies: dict[str, list[float]] = {way: [] for way in WAYS}
    for seed in range(options.seeds):
        few = balanced(train, options.labels, seed)
        for way in WAYS:
            torch.manual_seed(seed)
            classifier = Classifier.from_encoder(source, train.classes, frozen=way == "frozen")
            if way == "from scratch":
                classifier = Classifier(**classifier.config)
            trainer = Trainer(classifier, replace(recipe, seed=seed))
            trainer.fit(few, few)
            accuracies[way].append(evaluate(trainer.ema, test, 1000).means["accuracy"])
        print(seed, {way: round(found[-1], 4) for way, found in accuracies.items()}, flush=True)
    for way, found in accuracies.items():
        error = statistics.stdev(found) / len(found) ** 0.5 if len(found) > 1 else float("nan")
        print(f"{way:13} {statistics.mean(found):.2%} ± {error:.2%} of {len(test):,} test images right")


if __name__ == "__main__":
    main()
