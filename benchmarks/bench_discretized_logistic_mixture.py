"""discretized_logistic_mixture, forward and backward, against the loss that PixelCNN++ is trained with.

    python benchmarks/bench_discretized_logistic_mixture.py [--threads 2] [--output FILE.json]

"eager" is openai/pixel-cnn's loss in torch, line by line. Floor: 1 copy of the parameters (they are read forward, read
and written backward: one and a half copies, rounded down), with nothing computed.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fastgen.ops import discretized_logistic_mixture
from fastgen.ops.discretized_logistic_mixture import discretized_logistic_mixture_reference
from harness import assert_parity, compare, gradients, start, write
from mixtures import pixels
from pixelcnnpp import literal_log_likelihood

SHAPES = ((16, 3, 10, 32, 32), (1, 3, 10, 32, 32), (64, 1, 10, 28, 28))  # N, C, K, H, W
LOG_SCALE = -3.0  # as in a trained model: about thirteen of 256 levels wide
LogLikelihood = Callable[[Tensor, Tensor], Tensor]


def reference(params: Tensor, values: Tensor) -> Tensor:
    return discretized_logistic_mixture_reference(params, values, 256)


def step(log_likelihood: LogLikelihood, params: Tensor, values: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    """One training step's worth: the loss in nats per image, and its gradient."""

    def run() -> tuple[Tensor, ...]:
        loss = -log_likelihood(params, values).sum((1, 2)).mean()
        return gradients((loss,), [params], [torch.ones_like(loss)])

    return run


def check_parity(params: Tensor, values: Tensor) -> None:
    double = params.detach().double().requires_grad_()
    ours, plain = discretized_logistic_mixture(params, values), reference(params, values)
    assert_parity(ours, plain, reference(double, values))
    torch.testing.assert_close(ours, literal_log_likelihood(params, values), rtol=1e-2, atol=1e-2)
    results = [step(*arguments)()[0] for arguments in (
        (discretized_logistic_mixture, params, values), (reference, params, values), (reference, double, values),
    )]  # fmt: skip
    assert_parity(*results)


def main() -> None:
    output = start(__doc__)
    cases = []
    for shape in SHAPES:
        for layout in (torch.contiguous_format, torch.channels_last):
            params, values, _ = pixels(shape, log_scale=LOG_SCALE)
            params = params.contiguous(memory_format=layout).requires_grad_()
            check_parity(params, values)
            torch.compiler.reset()
            contenders = {
                "fastgen": step(discretized_logistic_mixture, params, values),
                "eager": step(literal_log_likelihood, params, values),
                "torch.compile": step(torch.compile(literal_log_likelihood), params, values),
            }
            case = "discretized_logistic_mixture, forward + backward"
            case += ", channels_last" if layout == torch.channels_last else ""
            cases.append(compare(case, shape, params.dtype, contenders, floor_copies=1, elements=params.numel()))
    write("discretized_logistic_mixture", cases, output)


if __name__ == "__main__":
    main()
