"""Compile Triton launches ahead of time, for GPUs that are not here, and read what became of them.

What is compiled is what the op would launch: ``recorded`` calls the op's own host code on meta tensors. Triton brings
the ptxas and cuobjdump that this needs.
"""

import gzip
import hashlib
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
    (8, 0): ("HMMA", 163 << 10),
    (9, 0): ("HGMMA", 227 << 10),
    (10, 0): ("UTC[A-Z]*MMA", 227 << 10),
    (12, 0): ("HMMA", 99 << 10),
}
TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
CUOBJDUMP = TOOLS / "cuobjdump"
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
    sass: str

    def count(self, instruction: str) -> int:
        return len(re.findall(rf"\b{instruction}\b", self.sass))


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
    usage, sass = _read(kernel.asm["cubin"])
    registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", usage).groups())
    return Binary(launch.kernel.__name__, registers, stack, kernel.metadata.shared, sass)


def _read(cubin: bytes) -> list[str]:
    """Usage of resources, and instructions: kept in Triton's cache, as the binary is, for they take longer to make."""
    cache = Path(triton.knobs.cache.dir) / f"disassembled-{triton.__version__}"
    kept = cache / f"{hashlib.sha256(cubin).hexdigest()}.gz"
    if not kept.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            path = Path(folder, "cubin")
            path.write_bytes(cubin)
            usage, sass = (
                subprocess.run([*command, path], capture_output=True, text=True, check=True).stdout
                for command in ((CUOBJDUMP, "--dump-resource-usage"), (TOOLS / "nvdisasm", "-c", "-ndf", "-novliw"))
            )
            assert "/*0000*/" in sass, "no instructions"
            written = Path(folder, "text")
            written.write_bytes(gzip.compress(f"{usage}\0{sass}".encode()))
            written.replace(kept)
    return gzip.decompress(kept.read_bytes()).decode().split("\0")


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
        assert b.count("STL(?:.64|.128)?") == 0, f"{where}: spills {b.count('STL(?:.64|.128)?')} times"
        assert b.shared <= most_shared, f"{where}: a block has {most_shared}"
        if b.kernel in products:
            assert b.count(instruction), f"{where}: no {instruction}"
    return binaries
