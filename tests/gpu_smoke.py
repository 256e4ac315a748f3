"""Every op that has a CUDA kernel, once, on small arguments, in each dtype: run by test_gpu.py under compute-sanitizer.

Nothing else happens on the GPU: data is made on the CPU, and looked at there.
"""

import sys

import torch

from op_cases import ARGUMENTS, CUDA_OPS, call, moved
from parity import DTYPES


def main(device: str) -> None:
    torch.manual_seed(0)
    for op in CUDA_OPS:
        for make in ARGUMENTS[op]:
            for dtype in DTYPES:
                results = call(op, *moved(make(dtype), device))
                assert all(result.cpu().isfinite().all() for result in results), (op, dtype)


if __name__ == "__main__":
    main(*sys.argv[1:])
