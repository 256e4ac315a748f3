"""masked_conv2d with bias, activation and residual, forward and backward, against F.conv2d with a masked weight.

    python benchmarks/bench_masked_conv2d.py [--threads 2] [--output FILE.json]

"cropped" is the strongest form a user could write in torch: only the kernel's live rows, on a padded image. Floor: the
memory traffic alone, 6 copies of the image (forward 2 reads and 1 write, backward about 9 transfers); the arithmetic,
which bounds these shapes on a CPU, comes on top.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgen.ops import masked_conv2d, masked_conv2d_mask
from harness import assert_parity, compare, gradients, start, write

# N, I, O, H, kernel, mask, activation
CASES = (
    (16, 1, 64, 28, 7, "A", "none"),
    (16, 64, 64, 28, 3, "B", "relu"),
    (16, 128, 256, 28, 3, "B", "gated"),
    (16, 128, 128, 32, 5, "B", "elu"),
)


def activate(p: Tensor, activation: str) -> Tensor:
    a, b = p.chunk(2, dim=1)
    forms: dict[str, Callable[[], Tensor]] = {
        "none": lambda: p,
        "relu": lambda: F.relu(p),
        "elu": lambda: F.elu(p),
        "gated": lambda: torch.tanh(a) * torch.sigmoid(b),
    }
    return forms[activation]()


def main() -> None:
    output = start(__doc__)
    cases = []
    for N, I, O, H, k, mask, activation in CASES:
        channels = O // 2 if activation == "gated" else O
        sizes = ((N, I, H, H), (O, I, k, k), (O,), (N, channels, H, H))
        inputs = [torch.randn(size) for size in sizes]
        inputs[1] /= (I * k * k) ** 0.5
        inputs = [tensor.requires_grad_() for tensor in inputs]
        live, grad_y, p = masked_conv2d_mask(inputs[1], mask), torch.randn(sizes[3]), k // 2

        def masked(x: Tensor, w: Tensor, b: Tensor, r: Tensor, *, live=live, p=p, kind=activation) -> Tensor:
            return activate(F.conv2d(x, w * live.to(w), b, padding=p), kind) + r

        def cropped(x: Tensor, w: Tensor, b: Tensor, r: Tensor, *, live=live, p=p, kind=activation) -> Tensor:
            padded = F.pad(x, (p, p, p, 0))
            return activate(F.conv2d(padded, (w * live)[:, :, : p + 1], b), kind) + r

        def ours(x: Tensor, w: Tensor, b: Tensor, r: Tensor, *, mask=mask, kind=activation) -> Tensor:
            return masked_conv2d(x, w, b, mask, kind, r)

        exact = masked(*(tensor.double() for tensor in inputs))
        assert_parity(ours(*inputs), masked(*inputs), exact)
        torch.compiler.reset()
        forms = {
            "fastgen": ours,
            "eager": masked,
            "eager, cropped": cropped,
            "torch.compile": torch.compile(masked),
            "torch.compile, cropped": torch.compile(cropped),
        }
        contenders = {
            name: (lambda form=form, inputs=inputs, g=grad_y: gradients((form(*inputs),), inputs, [g]))
            for name, form in forms.items()
        }
        name = f"masked_conv2d {k}x{k} {mask}, {I} to {O}, {activation}, forward + backward"
        result = compare(name, sizes[0], torch.float32, contenders, floor_copies=6, elements=N * channels * H * H)
        cases.append(result)
    write("masked_conv2d", cases, output)


if __name__ == "__main__":
    main()
