"""discretized_logistic_mixture against the loss that PixelCNN++ is trained with.

    python benchmarks/bench_discretized_logistic_mixture.py [--device cuda] [--quick] [--output FILE.json]

"eager" is openai/pixel-cnn's loss in torch, line by line; it is less exact than fastgen, so parity is checked against
fastgen's reference. Each call gives the loss in nats per image. Least traffic: forward reads the parameters, backward
reads them and writes their gradient. Operations are about 30 for each component of a value, and 60 more backward.
"""

from collections.abc import Callable

from torch import Tensor

from cases import Case, Form, compiled
from fastgen.ops import discretized_logistic_mixture
from fastgen.ops.discretized_logistic_mixture import discretized_logistic_mixture_reference
from harness import alone
from mixtures import pixels
from pixelcnnpp import literal_log_likelihood

#: N, C, K, H, W
SHAPES = {
    "cpu": ((16, 3, 10, 32, 32), (1, 3, 10, 32, 32), (64, 1, 10, 28, 28)),
    "cuda": ((64, 3, 10, 32, 32), (16, 3, 10, 32, 32), (64, 1, 10, 28, 28)),
}
QUICK = ((2, 3, 2, 4, 4),)
LOG_SCALE = -3.0  # as in a trained model: about thirteen of 256 levels wide
Loss = Callable[[Tensor, Tensor], Tensor]


def loss(log_likelihood: Callable[..., Tensor]) -> Loss:
    return lambda params, values: -log_likelihood(params, values).sum((1, 2)).mean()


def reference(params: Tensor, values: Tensor) -> Tensor:
    return discretized_logistic_mixture_reference(params, values, 256)


def case(shape: tuple[int, ...], quick: bool) -> Case:
    def inputs() -> list[Tensor]:
        return list(pixels(shape, log_scale=LOG_SCALE)[:2])

    ours, literal = loss(discretized_logistic_mixture), loss(literal_log_likelihood)
    forms = {
        "fastgen": Form(ours),
        "fastgen, channels_last": Form(ours, channels_last=True),
        "eager": Form(literal),
        "eager, channels_last": Form(literal, channels_last=True),
    }
    if not quick:
        forms["torch.compile"] = compiled(literal)
        forms["torch.compile, channels_last"] = compiled(literal, channels_last=True)
    N, C, K, H, W = shape
    params = N * H * W * K * {1: 3, 3: 10}[C]
    components = N * C * K * H * W
    pair = discretized_logistic_mixture, reference
    return Case(
        "discretized_logistic_mixture", shape, inputs, forms, moved=(params, 3 * params),
        flops=(30 * components, 90 * components), leaves=(0,), parity=pair,
    )  # fmt: skip


def cases(device: str, quick: bool = False) -> list[Case]:
    return [case(shape, quick) for shape in (QUICK if quick else SHAPES[device])]


if __name__ == "__main__":
    alone(__doc__, "discretized_logistic_mixture", cases)
