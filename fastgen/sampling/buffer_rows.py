"""The last touches to a plan: buffers that nobody reads go, and every other keeps only the rows that are needed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .plan import Axis, Plan, Ref


def finish(plan: Plan) -> Plan:
    """Remove unused buffers, and set how many rows each buffer keeps."""
    _prune(plan)
    accesses = _accesses(plan)
    attended = {
        ref.buffer for i in plan.instructions if i.attend is not None for ref in (i.attend.keys, i.attend.values)
    }
    for index, buffer in enumerate(plan.buffers):
        if buffer.kind in ("constant", "given") or index in attended:
            buffer.keep = buffer.rows
        else:
            buffer.keep = max(1, min(_keep(plan, index, accesses[index]), buffer.rows))
    return plan


@dataclass(frozen=True)
class _Access:
    """When a buffer is read, or written, and where."""

    rows: Axis
    columns: Axis
    ref: Ref
    writes: bool


def _accesses(plan: Plan) -> list[list[_Access]]:
    """Of each buffer; draws write the image, and read parameters."""
    _, H, W = plan.shape
    found: list[list[_Access]] = [[] for _ in plan.buffers]
    for i in plan.instructions:
        found[i.out.buffer].append(_Access(i.rows, i.columns, i.out, True))
        for ref in i.refs():
            found[ref.buffer].append(_Access(i.rows, i.columns, ref, False))
    for ref in plan.params:
        found[ref.buffer].append(_Access(Axis(H), Axis(W), ref, False))
    found[0].append(_Access(Axis(H), Axis(W), Ref(0, 0, plan.buffers[0].channels), True))
    return found


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


def _keep(plan: Plan, index: int, accesses: list[_Access]) -> int:
    """How many rows lie between the newest row that is written and the oldest that is still read."""
    if plan.slope is not None:
        return _keep_along_front(plan, index, accesses)
    written = [(access.rows, access.ref) for access in accesses if access.writes]
    read = [(access.rows, access.ref) for access in accesses if not access.writes]
    rows, keep, newest = plan.buffers[index].rows, 1, -1
    for r in range(-plan.top, plan.shape[1]):
        newest = max([newest, *_rows(written, r, rows)])
        oldest = min(_rows(read, r, rows), default=newest)
        keep = max(keep, newest - oldest + 1)
    return keep


def _keep_along_front(plan: Plan, index: int, accesses: list[_Access]) -> int:
    """Along a wavefront: how many rows are between their first write and their last read at once."""
    assert plan.slope is not None
    rows = plan.buffers[index].rows
    first, last = [1 << 60] * rows, [-1 << 60] * rows
    for r in range(-plan.top, plan.shape[1]):
        for access in accesses:
            across = access.columns
            for row in _rows([(access.rows, access.ref)], r, rows):
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
