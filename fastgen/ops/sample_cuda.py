"""Sampling plans on a GPU: who draws what, and the memory for it. The kernel is ``csrc/sample_cuda.cuh``.

A *team* of blocks draws a *chunk* of images. A team of one block waits for nobody. The blocks of a larger one share out
each instruction and wait for one another, a microsecond each time; in return each reads a share of the weights only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

#: Images that a tile takes along, as one takes.
TILE = 8
#: Words from the counter of a team to the next: kArrivalsApart.
ARRIVALS_APART = 32
#: Maps that come with a batch, at most: kMaxGiven.
MOST_GIVEN = 16
#: Tiles whose weights come from the cache once: those of neighbouring warps, from what a multiprocessor keeps itself.
TILES_AT_ONCE = 8
#: Images of a chunk, at most.
LARGEST_CHUNK = 64
#: What sample_program_facts says.
_TEAM_STATE, _WAITS = range(2)


@dataclass(frozen=True)
class Gpu:
    """What decides how images are shared out, in bytes and seconds. The defaults are an H100's: its data sheet's
    numbers, and for waits and caches what others have measured; fastgen has measured none of them.

    Attributes:
        blocks: of the kernel that run at once.
        cache: bytes a second from the L2 cache to all multiprocessors.
        memory: bytes a second from what does not fit there: keys and values.
        products: float32 operations a second.
        wait: seconds until all blocks of a team know that they have all come.
        step: seconds of one instruction that has nothing to do: its records, its addresses, a barrier of its block.
    """

    blocks: int = 264
    cache: float = 5.5e12
    memory: float = 3.35e12
    products: float = 30e12
    wait: float = 1.5e-6
    step: float = 0.5e-6


@dataclass(frozen=True)
class Teams:
    """``blocks`` blocks draw a chunk of ``chunk`` images."""

    chunk: int
    blocks: int


@dataclass(frozen=True)
class Work:
    """Of a plan, for one pixel of all its colours, without what is computed once a row.

    Attributes:
        weights: bytes that are read.
        products: multiplications of one image.
        instructions: how many are due.
        waits: how often the blocks of a team wait for one another.
        units: tiles of the largest instruction, for eight images.
        steps: of the walk, pixels or wavefronts.
        front: pixels of an image in a step, as one takes.
        keys: bytes of keys and values that one image's queries read, in the mean.
    """

    weights: int
    products: int
    instructions: int
    waits: int
    units: int
    steps: int
    front: int = 1
    keys: int = 0

    def of_program(self, codes: Tensor, constants: Tensor) -> Work:
        """The same, with the waits of the plan's program: of each draw, and where an instruction needs another's."""
        words = torch.ops.fastgen.sample_program.default(codes, constants, 1)
        facts = torch.ops.fastgen.sample_program_facts.default(words, 1)
        within = min(int(facts[_WAITS].item()), self.instructions)  # some are not due at every pixel
        return replace(self, waits=within + 2 * int(codes[0].item()))

    def seconds(self, n: int, teams: Teams, gpu: Gpu) -> float:
        """How long a batch of ``n`` images should take."""
        at_once = max(1, gpu.blocks // teams.blocks)
        rounds = -(-max(1, -(-n // teams.chunk)) // at_once)
        return rounds * self.steps * (self.moving(n, teams, gpu) + self.waiting(teams, gpu))

    def moving(self, n: int, teams: Teams, gpu: Gpu) -> float:
        """Seconds of a step in which weights come from the cache, for each team's chunk, or products are made."""
        count = min(max(1, -(-n // teams.chunk)), max(1, gpu.blocks // teams.blocks))
        share = min(1.0, count * teams.blocks / gpu.blocks)  # of the GPU that has something to do
        tiles = -(-teams.chunk * self.front // TILE)
        reading = count * self.weights * -(-tiles // TILES_AT_ONCE) / gpu.cache / share
        reading += count * min(n, teams.chunk) * self.keys / gpu.memory / share
        return max(reading, 2 * self.products * tiles * TILE * count / gpu.products / share)

    def waiting(self, teams: Teams, gpu: Gpu) -> float:
        """Seconds of a step that its instructions take if there is nothing to read or multiply."""
        return self.instructions * gpu.step + (self.waits * gpu.wait if teams.blocks > 1 else 0.0)


def teams_of(n: int, work: Work, gpu: Gpu) -> Teams:
    """Those that should draw ``n`` images soonest: of chunks of 8 to 64 images, and as many blocks as find work."""
    found = [Teams(min(TILE, max(1, n)), 1)]
    for chunk in range(TILE, LARGEST_CHUNK + 1, TILE):
        blocks = max(1, gpu.blocks // max(1, -(-n // chunk)))
        most = -(-chunk * work.front // TILE) * work.units
        found += [Teams(chunk, 1), Teams(chunk, min(blocks, most))]
        if chunk >= n:
            break
    return min(found, key=lambda teams: work.seconds(n, teams, gpu))


class DevicePlan:
    """A plan on a GPU: its weights are there once, packed for the kernel.

    Args:
        codes: int64, see ``fastgen.sampling.plan.Plan.encode``.
        constants: float32, see there.
        work: of the plan.
        device: of the GPU.

    Raises:
        RuntimeError: the codes are no plan.
    """

    def __init__(self, codes: Tensor, constants: Tensor, work: Work, device: torch.device) -> None:
        self.codes, self._constants = codes.cpu(), constants.cpu()
        self.device = device
        self._work = work.of_program(self.codes, self._constants)
        self._on_device = self._constants.to(device)
        self._weights = torch.ops.fastgen.sample_program_weights.default(self.codes, self._constants).to(device)
        self._programs: dict[int, tuple[Tensor, Tensor]] = {}
        self._gpu: Gpu | None = None

    @property
    def instruction_set(self) -> str:
        """What its products run on: "sm_90" of an H100."""
        major, minor = torch.cuda.get_device_capability(self.device)
        return f"sm_{major}{minor}"

    def begin(self, n: int, front: int, threads: int | None) -> DeviceChunks:
        """Memory for a batch of ``n`` images. Threads are nothing here."""
        if self._gpu is None:
            self._gpu = Gpu(blocks=self.blocks())
        teams = teams_of(n, self._work, self._gpu) if self._gpu.blocks else Teams(TILE, 1)
        while True:
            try:
                return DeviceChunks(self, n, teams)
            except RuntimeError as error:  # a chunk of so many images is more than records count
                if "a GPU's program can hold" not in str(error) or teams.chunk == 1:
                    raise
                teams = replace(teams, chunk=teams.chunk // 2, blocks=1)

    def blocks(self) -> int:
        """How many of the kernel's blocks run at once there; 0 where they cannot wait for one another."""
        fit: int = torch.ops.fastgen.sample_program_blocks.default(*self.program(1))
        return fit

    def program(self, images: int) -> tuple[Tensor, Tensor]:
        """The records for chunks of so many images, here and on the GPU."""
        if images not in self._programs:
            words = torch.ops.fastgen.sample_program.default(self.codes, self._constants, images)
            self._programs[images] = words, words.to(self.device)
        return self._programs[images]

    def run(self, words: Tensor, program: Tensor, *rest: Any) -> None:
        """Launch; it waits for nothing, and can be captured in a CUDA graph."""
        torch.ops.fastgen.sample_program_run.default(words, program, self._on_device, self._weights, *rest)


class DeviceChunks:
    """The memory of a batch on a GPU, in chunks of images that teams of blocks draw."""

    def __init__(self, plan: DevicePlan, n: int, teams: Teams) -> None:
        self._plan, self._blocks = plan, teams.blocks
        self._words, self._program = plan.program(teams.chunk)
        facts = torch.ops.fastgen.sample_program_facts.default(self._words, teams.blocks)
        count, device = -(-n // teams.chunk), plan.device
        H = int(plan.codes[1].item())
        self._state = torch.empty(count * int(facts[_TEAM_STATE].item()), device=device)
        self._arrivals = torch.zeros(count * ARRIVALS_APART, dtype=torch.int32, device=device)
        self._bad_rows = torch.full((count,), H, dtype=torch.int32, device=device)
        self._rows = H

    def launch(self, batch: tuple[Any, ...], first: int, last: int) -> None:
        """Draw ticks [first, last) of a batch, the arguments of the op, and wait for nothing."""
        self._plan.run(
            self._words, self._program, self._state, self._arrivals, self._bad_rows, *batch, self._blocks,
            first, last,
        )  # fmt: skip

    def advance(self, batch: tuple[Any, ...], first: int, last: int) -> int:
        """Draw ticks [first, last), and wait for them; the first bad row, or −1."""
        self.launch(batch, first, last)
        bad_row = int(self._bad_rows.min().item()) if self._bad_rows.numel() else self._rows
        return bad_row if bad_row < self._rows else -1
