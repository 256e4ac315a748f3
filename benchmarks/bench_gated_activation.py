"""gated_activation, forward and backward, against chunk, tanh, sigmoid and mul.

    python benchmarks/bench_gated_activation.py [--threads 2] [--output FILE.json]

Floor: 4 copies of the result (2 reads and 1 write forward, 3 reads and 2 writes backward), with nothing computed.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fastgen.ops import gated_activation
from fastgen.ops.gated_activation import gated_activation_reference
from harness import assert_parity, compare, gradients, start, write

SHAPES = ((16, 256, 28, 28), (64, 256, 28, 28), (16, 256, 1, 1))


def step(gate: Callable[[Tensor], Tensor], x: Tensor, grad_y: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: gradients((gate(x),), [x], [grad_y])


def main() -> None:
    output = start(__doc__)
    cases = []
    for shape in SHAPES:
        x = torch.randn(shape, requires_grad=True)
        grad_y = torch.randn(shape[0], shape[1] // 2, *shape[2:])
        exact = gated_activation_reference(x.double())
        assert_parity(gated_activation(x), gated_activation_reference(x), exact)
        torch.compiler.reset()
        contenders = {
            "fastgen": step(gated_activation, x, grad_y),
            "eager": step(gated_activation_reference, x, grad_y),
            "torch.compile": step(torch.compile(gated_activation_reference), x, grad_y),
        }
        case = "gated_activation, forward + backward"
        cases.append(compare(case, shape, x.dtype, contenders, floor_copies=4, elements=grad_y.numel()))
    write("gated_activation", cases, output)


if __name__ == "__main__":
    main()
