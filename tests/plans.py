"""Small sampling plans of every kind, and an oracle of them that knows nothing of clocks, rings or margins."""

import math
import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgen.distributions import Bernoulli, Categorical, DiscretizedLogisticMixture, Distribution
from fastgen.ops.sample import PackedPlan, Walk
from fastgen.ops.sample_cuda import DevicePlan
from fastgen.sampling.plan import Attend, Axis, Buffer, Clock, Instruction, Pattern, Plan, Ref, Step
from fastgen.sampling.reference_executor import ReferenceWalk
from parity import assert_parity

UNARY = {
    "relu": F.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "silu": F.silu, "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "exp": torch.exp, "log": torch.log, "neg": torch.neg,
    "abs": torch.abs, "sqrt": torch.sqrt, "rsqrt": torch.rsqrt, "reciprocal": torch.reciprocal, "sin": torch.sin,
    "cos": torch.cos, "erf": torch.erf, "log1p": torch.log1p, "expm1": torch.expm1, "floor": torch.floor,
    "ceil": torch.ceil, "trunc": torch.trunc, "sign": torch.sign, "elu": F.elu, "leaky_relu": F.leaky_relu,
    "pow": torch.pow, "clamp": torch.clamp,
    "softplus": F.softplus,
}  # fmt: skip
BINARY = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "rsub": lambda a, b: b - a, "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b, "rdiv": lambda a, b: b / a, "max": torch.maximum, "min": torch.minimum,
    "eq": lambda a, b: (a == b).to(a), "lt": lambda a, b: (a < b).to(a), "le": lambda a, b: (a <= b).to(a),
    "gt": lambda a, b: (a > b).to(a), "ge": lambda a, b: (a >= b).to(a),
}  # fmt: skip
ABOVE = ((-1, -1), (-1, 0), (-1, 1))  # rows and columns of taps
LEFT = ((0, -2), (0, -1))
HERE = ((0, 0),)


class Builder:
    """Adds maps to a plan, each a product or a load over taps of an earlier one, with random weights."""

    def __init__(self, C: int, H: int, W: int) -> None:
        self.plan = Plan((C, H, W), [Buffer("image", H, W, C, keep=3)])

    def map(
        self,
        inputs: list[tuple[int, tuple[tuple[int, int], ...]]],
        O: int | None,
        *steps: Step,
        clock: Clock = "pixel",
        color: int = 0,
        down: int = 1,
        up: int = 1,
    ) -> int:
        """A new map of O channels before the steps, from (buffer, taps) pairs; O = None loads the one tap.

        ``down``: a position reads every down-th position of its inputs; ``up``: every up-th position is written, the
        others by nobody.
        """
        buffers = self.plan.buffers
        _, H, W = self.plan.shape
        first = buffers[inputs[0][0]]
        rows, columns = -(-first.rows // down) * up, -(-first.columns // down) * up
        sources = tuple(Ref(b, 0, buffers[b].channels, r, c, down, down) for b, taps in inputs for r, c in taps)
        K = sum(source.channels for source in sources)
        channels = K if O is None else O
        for step in steps:
            channels = channels // 2 if step.op == "gate" else 2 * channels if step.op == "concat_elu" else channels
        buffers.append(Buffer("map", rows, columns, channels, keep=3))
        every = (H // (rows // up), W // (columns // up))
        axes = Axis(rows // up, every[0]), Axis(columns // up, every[1])
        out = Ref(len(buffers) - 1, 0, channels, 0, 0, up, up)
        weights = (None, None) if O is None else (torch.randn(K, O) / K**0.5, 0.5 * torch.randn(O))
        self.plan.instructions.append(Instruction(clock, *axes, color, sources, out, *weights, steps))
        return len(buffers) - 1

    def finish(self, *params: int) -> Plan:
        """Each colour's parameters are the channels of one map."""
        self.plan.params = [Ref(b, 0, self.plan.buffers[b].channels) for b in params]
        return self.plan


def read(maps: list[Tensor], ref: Ref, rows: int, columns: int, n: int) -> Tensor:
    """(n, rows, columns, channels) of what ``ref`` reads; outside of a map it reads zeros."""
    source = maps[ref.buffer][..., ref.channel : ref.channel + ref.channels]
    u = torch.arange(rows) * ref.row_step + ref.row
    v = torch.arange(columns) * ref.column_step + ref.column
    inside = ((u >= 0) & (u < source.shape[1]))[:, None] & ((v >= 0) & (v < source.shape[2]))
    picked = source[:, u.clamp(0, source.shape[1] - 1)][:, :, v.clamp(0, source.shape[2] - 1)]
    return (picked * inside[:, :, None]).expand(n, -1, -1, -1)


def evaluate(plan: Plan, inputs: Tensor, given: tuple[Tensor, ...] = ()) -> Tensor:
    """The parameters (N, P, H, W) of a plan for given model inputs (N, C, H, W), map by map, in their dtype."""
    n, dtype = inputs.shape[0], inputs.dtype
    left = iter(given)
    maps = [inputs.permute(0, 2, 3, 1)]
    for b in plan.buffers[1:]:
        if b.kind == "given":
            maps.append(next(left).to(dtype))
        elif b.kind == "constant":
            assert b.data is not None
            maps.append(b.data.to(dtype)[None].expand(n, -1, -1, -1))
        else:
            maps.append(torch.zeros(n, b.rows, b.columns, b.channels, dtype=dtype))
    for i in plan.instructions:
        rows, columns = i.rows.count, i.columns.count
        x = torch.cat(
            [torch.zeros(n, rows, columns, 0, dtype=dtype)]
            + [read(maps, source, rows, columns, n) for source in i.sources],
            dim=-1,
        )
        x = x if i.weight is None else x @ i.weight.to(dtype)
        x = x if i.bias is None else x + i.bias.to(dtype)
        x = x if i.attend is None else _attended(maps, i.attend, x)
        for step in i.steps:
            x = _apply(step, x, None if step.operand is None else read(maps, step.operand, rows, columns, n))
        out = maps[i.out.buffer]
        out[:, i.out.row :: i.out.row_step, i.out.column :: i.out.column_step][
            :, :rows, :columns, i.out.channel : i.out.channel + i.out.channels
        ] = x
    _, H, W = plan.shape
    return torch.cat([read(maps, param, H, W, n) for param in plan.params], dim=-1).permute(0, 3, 1, 2)


def _attended(maps: list[Tensor], attend: Attend, x: Tensor) -> Tensor:
    """Attention of x (n, rows, columns, channels), with all scores, those that are not read −inf."""
    pattern, positions = attend.pattern, x.shape[1] * x.shape[2]
    q = x.flatten(1, 2).unflatten(-1, (pattern.heads, -1))
    k, v = (
        maps[ref.buffer][..., ref.channel : ref.channel + ref.channels].flatten(1, 2).unflatten(-1, (pattern.heads, -1))
        for ref in (attend.keys, attend.values)
    )
    scores = pattern.scale * torch.einsum("nqhc,nkhc->nhqk", q, k)
    scores = scores if pattern.bias is None else scores + pattern.bias.to(x.dtype)
    read = torch.zeros(positions, k.shape[1], dtype=torch.bool)
    for query in range(positions):
        for begin, end in pattern.runs[pattern.starts[query] : pattern.starts[query + 1]].tolist():
            read[query, begin:end] = True
    weights = scores.masked_fill(~read, -torch.inf).softmax(-1).nan_to_num(0)
    return torch.einsum("nhqk,nkhc->nqhc", weights, v).flatten(2).unflatten(1, x.shape[1:3])


def _apply(step: Step, x: Tensor, operand: Tensor | None) -> Tensor:
    if step.op in UNARY:
        return UNARY[step.op](x, *step.parameters)
    if step.op in BINARY:
        if operand is None:
            assert step.vector is not None
            operand = step.vector.to(x.dtype)
        return BINARY[step.op](x, UNARY[step.function](operand) if step.function else operand)
    if step.op == "gate":
        a, b = x.chunk(2, dim=-1)
        return torch.tanh(a) * torch.sigmoid(b)
    if step.op == "concat_elu":
        return F.elu(torch.cat((x, -x), dim=-1))
    groups, eps = step.parameters
    parts = x.unflatten(-1, (int(groups), -1))
    return F.layer_norm(parts, parts.shape[-1:], eps=eps).flatten(-2)


def step_plan(channels: int, *steps: Step, levels: int = 1, clock: str = "pixel") -> Plan:
    """A step after a product, and again after a load; before it everything is made positive, as log wants it."""
    b = Builder(1, 5, 7)
    first = b.map([(0, ABOVE + (LEFT if clock == "pixel" else ()))], channels, Step("sigmoid"), clock=clock)
    second = b.map([(first, HERE)], channels, *steps, clock=clock)
    third = b.map([(first, HERE)], None, *steps, clock=clock)
    return b.finish(b.map([(second, HERE), (third, HERE)], levels))


def deep_plan(C: int = 1, levels: int = 1, channels: int = 24, keep: int = 3) -> Plan:
    """Rows above on the row clock, this row on the pixel clock, a residual: the shape of a gated PixelCNN."""
    b = Builder(C, 6, 8)
    v = b.map([(0, ABOVE)], 2 * channels, clock="row")
    h = b.map([(0, LEFT)], 2 * channels, Step("add", operand=Ref(v, 0, 2 * channels)), Step("gate"))
    for _ in range(2):
        v = b.map([(v, ((-1, 0), (0, -1), (0, 0), (0, 1)))], 2 * channels, Step("relu"), clock="row")
        g = b.map([(h, ((0, -1), (0, 0)))], 2 * channels, Step("add", operand=Ref(v, 0, 2 * channels)), Step("gate"))
        h = b.map([(g, HERE)], channels, Step("add", operand=Ref(h, 0, channels)))
    for buffer in b.plan.buffers:
        buffer.keep = keep
    return b.finish(*[b.map([(h, HERE)], levels)] * C)


def attending_plan(
    heads: int = 2, key: int = 3, value: int = 5, read: str = "earlier", bias: int = 0, levels: int = 1
) -> Plan:
    """Attention between products. ``read``: "earlier" positions, those "before" one, or a "band" of two rows.

    ``bias``: of how many heads.
    """
    b = Builder(1, 4, 6)
    first = b.map([(0, ABOVE + LEFT)], 7, Step("tanh"))
    query, keys = (b.map([(first, HERE)], heads * key) for _ in range(2))
    values, out = (b.map([(first, HERE)], heads * value) for _ in range(2))
    place = torch.arange(24)
    apart = place[:, None] - place
    rows, columns = place[:, None] // 6 - place // 6, place[:, None] % 6 - place % 6
    live = {"earlier": apart >= 0, "before": apart > 0, "band": (apart >= 0) & (rows < 2) & (columns.abs() < 2)}[read]
    edges = torch.diff(F.pad(live.int(), (1, 1)))
    begins, ends = (edges == 1).nonzero(), (edges == -1).nonzero()
    starts = F.pad(torch.bincount(begins[:, 0], minlength=24).cumsum(0), (1, 0))
    added = torch.randn(bias, 24, 24) if bias else None
    pattern = Pattern(heads, key**-0.5, -math.inf, starts, torch.stack((begins[:, 1], ends[:, 1]), 1), added)
    for index in (keys, values):
        b.plan.buffers[index].keep = 4
    whole = [Ref(index, 0, b.plan.buffers[index].channels, row_step=0, column_step=0) for index in (keys, values)]
    instruction = b.plan.instructions[-1]
    instruction.sources, instruction.weight, instruction.bias = (Ref(query, 0, heads * key),), None, None
    instruction.attend, instruction.steps = Attend(whole[0], whole[1], pattern), (Step("tanh"),)
    return b.finish(b.map([(out, HERE), (first, HERE)], levels))


def plan_with_constants() -> Plan:
    """Reads a constant map, a vector for each image, and a map for each image."""
    b = Builder(1, 5, 7)
    b.plan.buffers += [
        Buffer("constant", 5, 7, 2, data=torch.randn(5, 7, 2)),
        Buffer("given", 1, 1, 6),
        Buffer("given", 5, 7, 3),
    ]
    label = Step("add", operand=Ref(2, 0, 6, row_step=0, column_step=0))
    h = b.map([(0, ABOVE + LEFT), (1, ((1, 1), (0, -3))), (3, ((0, 0), (-1, 2)))], 6, label, Step("tanh"))
    return b.finish(b.map([(h, HERE)], 1))


def slices_plan() -> Plan:
    """Slices of channels, read and written, none of which begins where 16 bytes do, or ends there."""
    b = Builder(1, 4, 6)
    first = b.map([(0, ABOVE + LEFT)], 12)
    b.plan.buffers.append(Buffer("map", 4, 6, 9))
    taps = (Ref(first, 3, 7), Ref(first, 1, 2, 0, -1))
    for channel, channels in ((0, 4), (4, 5)):
        b.plan.instructions.append(
            Instruction("pixel", Axis(4), Axis(6), 0, taps, Ref(2, channel, channels), torch.randn(9, channels) / 3)
        )
    return b.finish(b.map([(2, HERE)], 1))


def colours_plan() -> Plan:
    """Three colours, each of which sees those before it."""
    b = Builder(3, 4, 5)
    h = b.map([(0, ABOVE + LEFT)], 11, Step("relu"))
    params = []
    for k in range(3):  # colour k sees colours before it at the pixel itself
        i = b.map([(h, HERE), (0, HERE)], 4, color=k)
        weight = b.plan.instructions[-1].weight
        assert weight is not None
        weight[11 + k :] = 0
        params.append(i)
    return b.finish(*params)


def strides_plan(clock: Clock) -> Plan:
    """Half the resolution from rows above, and back: each of the four positions its own taps."""
    b = Builder(1, 6, 8)
    low = b.map([(0, ((-1, -1), (-1, 0), (-1, 1), (-2, 0)))], 9, Step("relu"), clock=clock, down=2)
    b.plan.buffers.append(Buffer("map", 6, 8, 5))
    taps = (Ref(low, 0, 9), Ref(low, 0, 9, 0, -1))
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        out = Ref(2, 0, 5, i, j, 2, 2)
        b.plan.instructions.append(
            Instruction(clock, Axis(3, 2, i), Axis(4, 2, j), 0, taps, out, torch.randn(18, 5) / 4)
        )
    return b.finish(b.map([(2, HERE), (0, LEFT)], 1))


def overhanging_plan() -> Plan:
    """A map with a row above and columns on both sides, as of a convolution that is padded more than it has to be."""
    b = Builder(1, 4, 5)
    b.plan.buffers.append(Buffer("map", 5, 8, 7, keep=3))
    taps = tuple(Ref(0, 0, 1, r - 1, c - 1) for r, c in (*ABOVE, *LEFT))
    weight, bias = torch.randn(5, 7), torch.randn(7)
    b.plan.instructions.append(
        Instruction("pixel", Axis(5, 1, -1), Axis(8, 1, -1), 0, taps, Ref(1, 0, 7), weight, bias, (Step("relu"),))
    )
    return b.finish(b.map([(0, LEFT), (1, ((0, 0), (0, 1), (1, 0), (1, 1)))], 2))


def biases_plan() -> Plan:
    """A product of nothing, which is its bias."""
    b = Builder(1, 3, 4)
    b.plan.buffers.append(Buffer("map", 3, 4, 20))
    nothing = Instruction("row", Axis(3), Axis(4), 0, (), Ref(1, 0, 20), torch.zeros(0, 20), torch.randn(20))
    b.plan.instructions.append(nothing)
    return b.finish(b.map([(1, HERE), (0, LEFT)], 1))


#: What tells roundings apart: ties in numbers of float16 and of bfloat16, and beside them; the largest, subnormal ones.
ROUGH = (
    1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-11 + 2**-20, -1 - 2**-9 - 2**-11, 1 + 2**-8, 1 + 3 * 2**-8, 1 - 2**-9 + 2**-20,
    65504.0, -65519.99, 3 * 2**-25, -(2**-25), 1.001 * 2**-25, 2**-24, 2**-14 - 2**-25, 2**-14 - 3 * 2**-26, 1e-3,
    -math.pi,
)  # fmt: skip


def numbers_plan(numbers: tuple[float, ...] = ROUGH) -> Plan:
    """Each number times the one as far from the other end: sums of one term, whose order is nothing."""
    b = Builder(1, 2, 3)
    count, values = len(numbers), torch.tensor(numbers, dtype=torch.float64).float()
    b.map([(0, ABOVE)], count)
    b.plan.instructions[-1].weight, b.plan.instructions[-1].bias = torch.zeros(3, count), values
    plan = b.finish(b.map([(1, HERE)], count))
    plan.instructions[-1].weight, plan.instructions[-1].bias = values.flip(0).diag(), torch.zeros(count)
    return plan


PARAMETERS = {"elu": (0.7,), "leaky_relu": (0.1,), "pow": (1.7,), "clamp": (0.4, 1.1), "softplus": (2.0, 1.5)}
OF_POSITIVE = ("log", "log1p", "sqrt", "rsqrt", "pow", "reciprocal")


def unary_plan(op: str, clock: Clock = "pixel") -> Plan:
    """A unary step, of positive numbers where it wants them."""
    before = (Step("abs"), Step("add", vector=torch.full((17,), 0.3))) if op in OF_POSITIVE else ()
    return step_plan(17, *before, Step(op, PARAMETERS.get(op, ())), clock=clock)


def wavefront_plan(slope: int | None) -> Plan:
    """Which a wavefront may draw; None: in raster order."""
    b = Builder(1, 6, 8)
    h = b.map([(0, ABOVE + LEFT)], 12, Step("relu"))
    h = b.map([(h, ((0, -1), (0, 0), (-1, 0), (-1, 1)))], 12, Step("add", operand=Ref(h, 0, 12)))
    plan = b.finish(b.map([(h, HERE)], 3))
    plan.slope = slope
    for buffer in plan.buffers:
        buffer.keep = 6
    return plan


def table_of(plan: Plan, components: int = 0) -> tuple[Tensor, Distribution]:
    levels = plan.params[0].channels
    distribution: Distribution = Bernoulli() if levels == 1 else Categorical(levels)
    if components:
        distribution = DiscretizedLogisticMixture(components)
    return distribution.to_input(torch.arange(distribution.levels)).repeat(plan.shape[0], 1), distribution


def run(plan: Plan, uniforms: Tensor, isa: str = "", **options: Any) -> Walk:
    """A whole batch through the compiled executor, with its parameters."""
    return run_packed(PackedPlan(*plan.encode(), isa), plan, uniforms, **options)


def run_packed(packed: PackedPlan | DevicePlan, plan: Plan, uniforms: Tensor, **options: Any) -> Walk:
    """A whole batch of ``plan``, wherever ``packed`` draws it, with its parameters."""
    components = options.get("components", 0)
    table, _ = table_of(plan, components)
    P = sum(p.channels for p in plan.params[: 1 if components else None])
    walk = Walk(packed, uniforms, table, params=P, **options)
    assert walk.advance() is None
    return walk


def packs(codes: Tensor, constants: Tensor, isa: str = "") -> bool:
    """False where the codes are no plan, or the machine lacks that instruction set."""
    try:
        PackedPlan(codes, constants, isa)
    except RuntimeError as error:
        return not re.search(r"\b(plan|isa): expected", str(error))
    return True


def check(plan: Plan, n: int = 3, given: tuple[Tensor, ...] = (), isa: str = "") -> Walk:
    """The parameters along the way are the oracle's, and the values are drawn from them."""
    uniforms = torch.rand(n, *plan.shape)
    walk = run(plan, uniforms, isa, given=given)
    _, distribution = table_of(plan)
    inputs = distribution.to_input(walk.values)
    assert_parity(walk.params, evaluate(plan, inputs, given), evaluate(plan, inputs.double(), given))
    assert torch.equal(walk.values, distribution.draw(walk.params, uniforms))
    assert_parity(walk.params, reference(plan, inputs, given), evaluate(plan, inputs.double(), given))
    return walk


def reference(plan: Plan, inputs: Tensor, given: tuple[Tensor, ...]) -> Tensor:
    """The parameters that the reference executor sees on its way through the images."""
    walk = ReferenceWalk(plan, len(inputs), list(given), torch.float32, torch.device("cpu"))
    seen = torch.empty(len(inputs), sum(p.channels for p in plan.params), *plan.shape[1:])
    of_color = seen.unflatten(1, (plan.shape[0], -1))
    image = torch.zeros_like(inputs)
    for r, c, k in walk.draws():
        of_color[:, k, :, r, c] = walk.params()
        image[:, k, r, c] = inputs[:, k, r, c]
        walk.reveal(image[:, :, r, c])
    return seen
