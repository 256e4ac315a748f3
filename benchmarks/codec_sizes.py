"""What a run's codec takes for images it was not trained on, beside PNG and WebP, and how long: docs/codec.md's tables.

    fastgen train pixelcnn++ --data mnist --recipe small --run runs/pixels
    python benchmarks/codec_sizes.py runs/pixels [--n 256] [--threads 1] [--json FILE]

Bits for each value: -log2 p of the model, in float64 sums; of the streams; of the whole file, with its header, checks
and labels; of a PNG and a lossless WebP of each image, and of one picture of all of them, one below the other. What is
decoded has to be the same, a stream has to keep the codec's promise, and an encoder with another number of threads has
to write the same bytes; else there are no numbers. Times are the least of three, of streams of 64 images, of 16, of 1.
"""

import argparse
import io
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import checkout  # noqa: F401
from environment import environment
from fastgen import pictures
from fastgen._files import write_atomic
from fastgen.codec import Codec, Container
from fastgen.commands.images import load_images
from fastgen.training import Run, load_model

#: Images of a stream.
TOGETHER = (64, 16, 1)
FORMS: dict[str, dict[str, Any]] = {
    "PNG": {"optimize": True},
    "WebP": {"lossless": True, "quality": 100, "method": 6},
}


def as_pictures(values: Tensor, levels: int) -> list[Image.Image]:
    """Each image; of one bit a pixel where there are two levels of one colour."""
    found = [
        Image.fromarray(each if values.shape[1] == 3 else each[..., 0]) for each in pictures.to_rgb(values, levels)
    ]
    return [each.convert("1") if levels == 2 and values.shape[1] == 1 else each for each in found]


def one_below_the_other(images: list[Image.Image]) -> Image.Image:
    (W, H), count = images[0].size, len(images)
    whole = Image.new(images[0].mode, (W, H * count))
    for i, image in enumerate(images):
        whole.paste(image, (0, i * H))
    return whole


def size(images: list[Image.Image], form: str) -> int:
    """Bytes."""
    total = 0
    for image in images:
        buffer = io.BytesIO()
        picture = image if form == "PNG" else image.convert("RGB")  # WebP has no others
        picture.save(buffer, form, **FORMS[form])
        total += buffer.tell()
    return total


def least(run: Callable[[], Any]) -> float:
    found = []
    for _ in range(3):
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return min(found)


@torch.no_grad()
def bits_of(model: Any, values: Tensor, labels: Tensor | None) -> float:
    """-log2 p of all images."""
    told = () if labels is None or model.classes is None else (labels,)
    return -sum(model.log_prob(part, *some).double().sum().item() for part, *some in batches(values, *told)) / math.log(
        2
    )


def batches(*tensors: Tensor) -> Any:
    return zip(*(each.split(64) for each in tensors), strict=True)


def measured(run: Path, n: int, threads: int) -> dict[str, Any]:
    """The numbers of a run's table.

    Raises:
        AssertionError: a stream or an image is not what it has to be.
    """
    torch.set_num_threads(threads)
    model: Any = load_model(run, "best", torch.device("cpu"))
    images = load_images(Run(run)).subset(n)
    values = images.values
    labels = None if model.classes is None else images.labels
    codec = Codec(model, (model.in_channels, *model.image_size))
    count = values.numel()
    data = codec.encode(values, labels)
    container = Container.from_bytes(data)
    streams, bits = 8 * sum(len(stream) for stream in container.streams), bits_of(model, values, labels)
    assert streams <= 1.005 * bits + 64 * len(container.streams), f"streams of {streams} bits, -log2 p is {bits:.0f}"
    assert torch.equal(codec.decode(data)[0].long(), values.long()), "decoded images differ"
    torch.set_num_threads(3 - threads if threads < 3 else 1)
    assert codec.encode(values, labels) == data, "another number of threads writes other bytes"
    torch.set_num_threads(threads)
    seen = as_pictures(values, model.levels)
    whole = [one_below_the_other(seen)]
    per_value = {"likelihood": bits, "streams": streams, "file": 8 * len(data)}
    for form in FORMS:
        per_value |= {f"{form} each": 8 * size(seen, form), f"{form} of all": 8 * size(whole, form)}
    some = None if labels is None else labels[:64]
    milliseconds = {"encode": 1e3 * least(lambda: codec.encode(values[:64], some)) / min(n, 64)}
    for together in TOGETHER:
        if together <= n:
            part = codec.encode(values[:together], None if labels is None else labels[:together])
            milliseconds[f"decode, {together} together"] = 1e3 * least(lambda part=part: codec.decode(part)) / together
    return {
        "run": run.name,
        "model": type(model).__name__,
        "parameters": sum(each.numel() for each in model.parameters()),
        "data": images.description,
        "shape": list(values.shape),
        "threads": threads,
        "bits_per_value": {name: round(number / count, 4) for name, number in per_value.items()},
        "bits_over_the_likelihood_of_a_stream": round((streams - bits) / len(container.streams), 1),
        "milliseconds_per_image": {name: round(number, 2) for name, number in milliseconds.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--n", type=int, default=256, help="images of those that the run was not trained on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = {"environment": environment("cpu"), **measured(options.run, options.n, options.threads)}
    print(json.dumps(result, indent=1))
    if options.json is not None:
        write_atomic(options.json, (json.dumps(result, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
