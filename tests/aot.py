"""Compile Triton launches ahead of time, for GPUs that are not here, and read what became of them.

What is compiled is what the op would launch: ``recorded`` calls the op's own host code on meta tensors. Triton brings
the ptxas and cuobjdump that this needs. Registers are spilled to the stack, so that a kernel without one spills none;
which instructions multiply matrices is said in PTX already, of which ptxas makes the binary.
"""

import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastgen.ops._triton import Launch, recording

#: Compute capability → the instruction of its matrix units, and the shared memory that a block may have, in bytes.
TARGETS = {
    (8, 0): (r"mma\.sync", 163 << 10),
    (9, 0): (r"wgmma\.mma_async", 227 << 10),
    (10, 0): (r"tcgen05\.mma", 227 << 10),
    (12, 0): (r"mma\.sync", 99 << 10),
}
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
POINTER = {
    torch.float32: "*fp32", torch.float64: "*fp64", torch.float16: "*fp16", torch.bfloat16: "*bf16",
    torch.int64: "*i64", torch.int32: "*i32", torch.uint8: "*u8", torch.bool: "*i1",
}  # fmt: skip


@dataclass(frozen=True)
class Binary:
    """One kernel, compiled for one target."""

    kernel: str
    registers: int
    stack: int
    shared: int
    ptx: str

    def count(self, instruction: str) -> int:
        return len(re.findall(rf"^\s*(?:@!?%\w+ )?(?:{instruction})\b", self.ptx, re.MULTILINE))


def recorded(capability: tuple[int, int], call: Callable[..., Any], *args: Any) -> list[Launch]:
    with recording(capability) as launches:
        call(*args)
    return launches


def compiled(launch: Launch, capability: tuple[int, int]) -> Binary:
    """Specialised as Triton's launcher would: on divisibility by 16 and on integers that are 1, where it may."""
    names = [p.name for p in launch.kernel.params]
    fixed = {p.name for p in launch.kernel.params if p.do_not_specialize}
    signature: dict[str, str] = {}
    constants = dict(launch.constants)
    attributes: dict[tuple[int], list[list[Any]]] = {}
    for index, (name, arg) in enumerate(zip(names, launch.args, strict=False)):
        signature[name] = _type(arg)
        if name in fixed:
            continue
        if arg is None or (isinstance(arg, int) and arg == 1):
            constants[name] = arg
            signature[name] = "constexpr"
        elif isinstance(arg, Tensor) or (isinstance(arg, int) and arg % 16 == 0):
            attributes[(index,)] = [["tt.divisibility", 16]]
    for name in names[len(launch.args) :]:
        signature[name] = "constexpr"
    source = ASTSource(launch.kernel, signature, constants, attributes)
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
    target = GPUTarget("cuda", 10 * capability[0] + capability[1], 32)
    kernel = triton.compile(source, target=target, options=options)
    registers, stack = _usage(kernel.asm["cubin"])
    return Binary(launch.kernel.__name__, registers, stack, kernel.metadata.shared, kernel.asm["ptx"])


def _usage(cubin: bytes) -> tuple[int, int]:
    """Registers of a thread, and bytes of its stack and other local memory."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [CUOBJDUMP, "--dump-resource-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    ((registers, stack, local),) = re.findall(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", said)
    return int(registers), int(stack) + int(local)


def _type(arg: Any) -> str:
    if isinstance(arg, Tensor):
        return POINTER[arg.dtype]
    if isinstance(arg, bool):
        return "u1"
    if isinstance(arg, float):
        return "fp32"
    return "i32" if arg is None or -(2**31) <= arg < 2**31 else "i64"


def assert_gates(
    capability: tuple[int, int], call: Callable[..., Any], *args: Any, products: Sequence[str] = ()
) -> list[Binary]:
    """Every launch of ``call(*args)`` compiles for the target, spills nothing and fits the shared memory of a block.

    Args:
        capability: a key of ``TARGETS``.
        call: the op's host code, ``<op>_triton``.
        *args: its arguments, on device "meta".
        products: kernels that must use the target's matrix instruction.
    """
    instruction, most_shared = TARGETS[capability]
    binaries = [compiled(launch, capability) for launch in recorded(capability, call, *args)]
    assert binaries, "nothing was launched"
    assert {b.kernel for b in binaries} >= set(products)
    for b in binaries:
        where = f"{b.kernel} for {capability}: {b.registers} registers, stack {b.stack}, {b.shared} bytes shared"
        assert b.stack == 0, f"{where}: spills"
        assert b.shared <= most_shared, f"{where}: a block has {most_shared}"
        if b.kernel in products:
            assert b.count(instruction), f"{where}: no {instruction}"
    return binaries
