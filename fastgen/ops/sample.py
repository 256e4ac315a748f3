"""The compiled executor of sampling plans (``fastgen.sampling.plan``): any number of rows of a batch in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._registry import call, define_op

if TYPE_CHECKING:
    from .sample_cuda import DevicePlan

CPU, CUDA = {"CPU": "csrc/sample_cpu.cpp"}, {"CUDA": "csrc/sample_cuda.cu"}
KERNELS = CPU | CUDA

#: Pixels that one thread takes along at once, as a rule of as many images: enough for matrix products at full speed,
#: few enough for its cache.
CHUNK = 64

#: By the numbers of a vector register, what products are compiled for; "avx512bf16" differs in bfloat16 alone.
INSTRUCTION_SETS = {4: "portable", 8: "avx2", 16: "avx512"}

# What executors share is the plan; the reference (fastgen.sampling.reference_executor) executes plans, not codes. So
# these ops have no kernel but the compiled ones, and whoever calls them asks `available` first.
for _schema in (
    "sample_format(Tensor codes) -> int",
    "sample_pack(Tensor codes, Tensor constants, str isa) -> Tensor",
    "sample_state(Tensor codes, Tensor constants, int images, int chunk) -> Tensor",
    "sample(Tensor codes, Tensor constants, Tensor packed, Tensor(a!) state, Tensor[] given, Tensor uniforms, "
    "Tensor table, Tensor known, Tensor keep, float temperature, int components, Tensor(b!) values, Tensor(c!) params, "
    "int chunk, int first, int last) -> int",
    "sample_between(Tensor codes, Tensor constants, Tensor packed, Tensor(a!) state, Tensor[] given, Tensor input, "
    "Tensor(b!) params, int chunk, int draw) -> int",
    "sample_program(Tensor codes, Tensor constants, int images) -> Tensor",
    "sample_program_weights(Tensor codes, Tensor constants) -> Tensor",
    "sample_program_facts(Tensor words, int blocks) -> Tensor",
):
    define_op(_schema, kernels=CPU, reference=None, fake=None, backward=None)

for _schema in (
    "sample_program_blocks(Tensor words, Tensor program) -> int",
    "sample_program_run(Tensor words, Tensor program, Tensor constants, Tensor packed, Tensor(a!) state, "
    "Tensor(b!) arrivals, Tensor(c!) bad_rows, Tensor[] given, Tensor uniforms, Tensor table, Tensor known, "
    "Tensor keep, float temperature, int components, Tensor(d!) values, Tensor(e!) params, int blocks, int first, "
    "int last) -> Tensor(c!)",
):
    define_op(_schema, kernels=CUDA, reference=None, fake=None, backward=None)


def available(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether compiled code executes plans there: float32 on the CPU, or on a GPU, where those kernels were built."""
    op, key = {"cpu": ("sample", "CPU"), "cuda": ("sample_program_run", "CUDA")}.get(device.type, ("sample", "Meta"))
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"fastgen::{op}", key) and dtype == torch.float32


def plan_format() -> int | None:
    """What the compiled library takes codes to mean, as a number; None if it is too old to say so."""
    if not torch._C._dispatch_has_kernel_for_dispatch_key("fastgen::sample_format", "CPU"):
        return None
    return torch.ops.fastgen.sample_format.default(torch.zeros(0, dtype=torch.int64))


class PackedPlan:
    """A plan with its weights packed for this machine's vector registers.

    Args:
        codes: int64, see ``fastgen.sampling.plan.Plan.encode``.
        constants: float32, see there.
        isa: "avx512bf16", "avx512", "avx2" or "portable"; by default the best that this machine has.

    Raises:
        RuntimeError: the codes are no plan, or the machine lacks ``isa``.
    """

    def __init__(self, codes: Tensor, constants: Tensor, isa: str = "") -> None:
        self.codes = codes
        self.constants = constants
        self.packed = torch.ops.fastgen.sample_pack.default(codes, constants, isa)

    @property
    def instruction_set(self) -> str:
        """What its products run on, as ``isa``; but in bfloat16 "avx512" and "avx512bf16" are one, and so called."""
        floats, place, halves = self.packed[:3].int().tolist()
        pairs = (*INSTRUCTION_SETS.values(), "avx512bf16")[place]
        return (INSTRUCTION_SETS[floats], pairs, INSTRUCTION_SETS[halves])[int(self.codes[7].item())]

    @property
    def device(self) -> torch.device:
        """Where it draws."""
        return self.codes.device

    def begin(self, n: int, front: int, threads: int | None) -> Chunks:
        """Memory for a batch of ``n`` images, ``front`` pixels of which are drawn together."""
        return Chunks(self, n, _chunk(n, threads or torch.get_num_threads(), max(1, CHUNK // front)))


def _chunk(n: int, threads: int, largest: int) -> int:
    """Images of a chunk, at most ``largest``: as many chunks for each thread."""
    chunks = max(1, threads * -(-n // (threads * largest)))
    return max(1, -(-n // chunks))


class Chunks:
    """The memory of a batch on the CPU, in chunks of images that threads draw."""

    def __init__(self, plan: PackedPlan, n: int, chunk: int) -> None:
        self._plan, self._chunk = plan, chunk
        self._state = torch.ops.fastgen.sample_state.default(plan.codes, plan.constants, n, chunk)

    def advance(self, batch: tuple[Any, ...], first: int, last: int) -> int:
        """Draw ticks [first, last) of a batch, the arguments of the op; the first bad row, or −1."""
        plan = self._plan
        bad_row: int = call(
            torch.ops.fastgen.sample.default, plan.codes, plan.constants, plan.packed, self._state, *batch, self._chunk,
            first, last,
        )  # fmt: skip
        return bad_row


class Walk:
    """One batch on its way through a plan. ``advance`` draws row after row; between calls ``values`` can be read.

    Image i depends on its own uniforms alone, to the last bit: not on the batch, nor on the number of threads.

    Args:
        plan: what to execute.
        uniforms: (N, C, H, W) in [0, 1); (N, 2·C, H, W) for a mixture.
        table: float32 (C, levels) or (C, levels, inputs): what the model reads for a value of a colour, in one channel
            or several.
        given: the plan's given buffers, float32 (N, rows, columns, channels) each.
        temperature: divides the logits.
        known: int64 (N, C, H, W), with ``keep``: what is kept where ``keep``, bool (N, C, H, W), is true.
        params: P, to record the parameters that were drawn from; 0 for none.
        threads: to split the images over; by default torch's.
        components: of the mixture of logistics that values are drawn from; 0 for the laws of one part for each colour.

    Attributes:
        values: int64 (N, C, H, W), zero where nothing is drawn yet.
        params: float32 (N, P, H, W), or empty.
        ticks: of the walk: rows, those that it begins above the image too, or wavefronts of a plan that has them.
        done: how many of them are behind.
    """

    def __init__(
        self,
        plan: PackedPlan | DevicePlan,
        uniforms: Tensor,
        table: Tensor,
        given: Sequence[Tensor] = (),
        temperature: float = 1.0,
        known: Tensor | None = None,
        keep: Tensor | None = None,
        params: int = 0,
        threads: int | None = None,
        components: int = 0,
    ) -> None:
        C, H, W, slope, tail, left, top = plan.codes[:7].tolist()
        N, each = uniforms.shape[0], 2 * C if components else C
        if uniforms.shape != (N, each, H, W):
            raise ValueError(f"uniforms: expected shape (N, {each}, {H}, {W}), got {tuple(uniforms.shape)}")
        self.plan = plan
        self.ticks = top + H if slope < 0 else left + W + tail + slope * (top + H - 1)
        self.done = 0
        device = plan.device
        self.values = torch.zeros((N, C, H, W), dtype=torch.int64, device=device)
        self.params = torch.zeros((N, params, H, W) if params else 0, device=device)
        front = 1 if slope <= 0 else min(H, -(-W // slope))  # pixels of an image that are drawn together
        self._memory = plan.begin(N, front, threads)
        self._batch = (
            [tensor.to(device).contiguous() for tensor in given],
            uniforms.to(device).double().contiguous(),  # float32 and float64 compare as they would in torch
            (table if table.dim() == 3 else table.unsqueeze(-1)).to(device).contiguous(),
            torch.zeros(0, dtype=torch.int64, device=device) if known is None else known.to(device).contiguous(),
            torch.zeros(0, dtype=torch.bool, device=device) if keep is None else keep.to(device).contiguous(),
            float(temperature), components, self.values, self.params,
        )  # fmt: skip

    def advance(self, ticks: int | None = None) -> int | None:
        """Execute that many ticks of the walk, or all that are left.

        Returns:
            The first row whose parameters are not finite, at which the walk of its images has stopped; None if all are.
        """
        first = self.done
        self.done = self.ticks if ticks is None else min(self.ticks, first + ticks)
        bad_row = self._memory.advance(self._batch, first, self.done)
        return None if bad_row < 0 else bad_row


class DrawnElsewhere:
    """One batch on its way through a plan in raster order, where whoever asks draws: parameters out, inputs in.

    Args:
        plan: what to execute.
        n: images in the batch.
        given: the plan's given buffers, float32 (N, rows, columns, channels) each.
    """

    def __init__(self, plan: PackedPlan, n: int, given: Sequence[Tensor] = ()) -> None:
        self.plan = plan
        self.done = 0
        self._chunk = _chunk(n, torch.get_num_threads(), CHUNK)
        self._given = [tensor.contiguous() for tensor in given]
        self._state = torch.ops.fastgen.sample_state.default(plan.codes, plan.constants, n, self._chunk)

    def params(self, input: Tensor, channels: int) -> Tensor:
        """The parameters of the next draw.

        Args:
            input: float32 (N, C·k), what the model reads of the pixel of the last draw; at the first it is not read.
            channels: P / C.

        Returns:
            float32 (N, P / C).
        """
        plan = self.plan
        params = torch.empty(len(input), channels)
        self.done = torch.ops.fastgen.sample_between.default(
            plan.codes, plan.constants, plan.packed, self._state, self._given, input.contiguous(), params, self._chunk,
            self.done,
        )  # fmt: skip
        return params
