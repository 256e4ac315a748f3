"""The last touches to a plan: buffers that nobody reads go, and every other keeps only the rows that are needed."""

from __future__ import annotations

from dataclasses import replace

from .plan import Axis, Plan, Ref


def finish(plan: Plan) -> Plan:
    """Remove unused buffers, and set how many rows each buffer keeps."""
    _prune(plan)
    for index, buffer in enumerate(plan.buffers):
        if buffer.kind in ("constant", "given"):
            buffer.keep = buffer.rows
        else:
            buffer.keep = max(1, min(_keep(plan, index), buffer.rows))
    return plan


def _prune(plan: Plan) -> None:
    used = {0, *(ref.buffer for ref in plan.params)}
    for instruction in plan.instructions:
        used |= {instruction.out.buffer, *(ref.buffer for ref in instruction.refs())}
    used |= {index for index, buffer in enumerate(plan.buffers) if buffer.kind == "given"}
    number = {old: new for new, old in enumerate(sorted(used))}

    def renamed(ref: Ref) -> Ref:
        return replace(ref, buffer=number[ref.buffer])

    plan.buffers = [plan.buffers[old] for old in sorted(used)]
    plan.params = [renamed(ref) for ref in plan.params]
    for instruction in plan.instructions:
        instruction.sources = tuple(map(renamed, instruction.sources))
        instruction.out = renamed(instruction.out)
        if instruction.attend is not None:
            keys, values = renamed(instruction.attend.keys), renamed(instruction.attend.values)
            instruction.attend = replace(instruction.attend, keys=keys, values=values)
        instruction.steps = tuple(
            step if step.operand is None else replace(step, operand=renamed(step.operand)) for step in instruction.steps
        )


def _keep(plan: Plan, index: int) -> int:
    """How many rows lie between the newest row that is written and the oldest that is still read."""
    H = plan.shape[1]
    rows = plan.buffers[index].rows
    everything = Axis(H)
    if plan.slope is not None:
        return _keep_along_front(plan, index)
    written = [(i.rows, i.out) for i in plan.instructions if i.out.buffer == index]
    read = [(i.rows, ref) for i in plan.instructions for ref in i.refs() if ref.buffer == index]
    read += [(everything, ref) for ref in plan.params if ref.buffer == index]
    if index == 0:
        written.append((everything, Ref(0, 0, plan.buffers[0].channels)))
    keep, newest = 1, -1
    for r in range(-plan.top, H):
        newest = max([newest, *_rows(written, r, rows)])
        oldest = min(_rows(read, r, rows), default=newest)
        keep = max(keep, newest - oldest + 1)
    return keep


def _keep_along_front(plan: Plan, index: int) -> int:
    """Along a wavefront: how many rows are between their first write and their last read at once."""
    _, H, W = plan.shape
    assert plan.slope is not None
    rows = plan.buffers[index].rows
    first, last = [1 << 60] * rows, [-1 << 60] * rows
    accesses = [(i.rows, i.columns, i.out) for i in plan.instructions if i.out.buffer == index]
    accesses += [(i.rows, i.columns, ref) for i in plan.instructions for ref in i.refs() if ref.buffer == index]
    accesses += [(Axis(H), Axis(W), ref) for ref in plan.params if ref.buffer == index]
    if index == 0:
        accesses.append((Axis(H), Axis(W), Ref(0, 0, plan.buffers[0].channels)))
    for r in range(-plan.top, H):
        for vertical, across, ref in accesses:
            for row in _rows([(vertical, ref)], r, rows):
                first[row] = min(first[row], across.at + plan.slope * r)
                last[row] = max(last[row], across.at + (across.count - 1) * across.every + plan.slope * r)
    keep = 1
    while any(first[row + keep] <= last[row] for row in range(rows - keep)):
        keep += 1
    return keep


def _rows(accesses: list[tuple[Axis, Ref]], r: int, rows: int) -> list[int]:
    """The buffer's rows that are touched while the walk is in row ``r``."""
    touched = []
    for axis, ref in accesses:
        u, rest = divmod(r - axis.at, axis.every)
        row = u * ref.row_step + ref.row
        if rest == 0 and 0 <= u < axis.count and 0 <= row < rows:
            touched.append(row)
    return touched
