"""Every op that has a CUDA kernel, once, on small arguments, in each dtype, and sampling plans by one block and by
teams: run by test_gpu.py under compute-sanitizer.

Nothing else happens on the GPU: data is made on the CPU, and looked at there.
"""

import sys

import torch

from fastgen.ops.sample_cuda import Teams
from fastgen.sampling.precision import PRECISIONS
from gpu_plans import run_on_gpu
from op_arguments import ARGUMENTS
from op_cases import CUDA_OPS, call, moved
from parity import DTYPES
from plans import attending_plan, deep_plan


def main(device: str) -> None:
    torch.manual_seed(0)
    for op in CUDA_OPS:
        for make in ARGUMENTS[op]:
            for dtype in DTYPES:
                results = call(op, *moved(make(dtype), device))
                assert all(result.cpu().isfinite().all() for result in results), (op, dtype)
    if device == "cpu":  # a rehearsal
        return
    for plan in (deep_plan(levels=4), attending_plan(levels=4)):
        for plan.precision in PRECISIONS:
            for blocks in (1, 3):
                walk = run_on_gpu(plan, torch.rand(5, *plan.shape), Teams(4, blocks), torch.device(device))
                assert walk.params.cpu().isfinite().all(), (plan.precision, blocks)


if __name__ == "__main__":
    main(*sys.argv[1:])
