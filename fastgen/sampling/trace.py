"""Tracing: one real forward of any model becomes a list of ATen and fastgen ops.

The forward runs with real tensors below autograd (a ``TorchDispatchMode``, as ``make_fx`` does it), so everything that
does not depend on the image is simply computed: masks, weight norm, ``self.weight.data *= self.mask`` inside forward.
What is recorded are the ops on what depends on the image or on the condition, out of place, each with the module that
called it. Tensors are told apart by where their elements lie in memory, which sees through views and detours.

It is the forward of the model's shadow: what it leaves in attributes, as a cache of this batch's size, is the shadow's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from .._places import Place, assigned, cut, place_of, region_of, storage_of, window_of, written
from .._shadow import shadow, uncast
from ..conditions import Condition, arguments, tensors_of
from .comparing import Comparing
from .state import digest, holdings, left_over, set_before_read

#: Images in a traced batch: more than one, so that an op that mixes images cannot hide.
BATCH = 3

_VALUELESS = {
    f"aten.{name}"
    for name in ("zeros_like", "ones_like", "empty_like", "full_like", "new_zeros", "new_ones", "new_full", "new_empty")
}


class UnsupportedModelError(ValueError):
    """A model that cannot be compiled: says which module, which op, and why."""


@dataclass
class Constant:
    """A tensor that depends on neither image nor condition."""

    tensor: Tensor


@dataclass
class Node:
    """One op on what depends on the image or the condition.

    Attributes:
        op: name, such as "aten.convolution"; in-place ops have the name of their out-of-place twin.
        args, kwargs: as called; tensors are ``Output`` or ``Constant``.
        path: of the module whose forward called it.
        on_image: whether it depends on the image, or on the condition alone.
        shapes, dtypes: of the tensors that it answered with.
    """

    op: str
    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    path: str
    on_image: bool
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    dtypes: list[torch.dtype] = field(default_factory=list)


@dataclass(frozen=True, eq=False, repr=False)
class Output:
    """The ``index``-th tensor that a node answers with."""

    node: Node
    index: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.node.shapes[self.index]


@dataclass
class Trace:
    """What one forward did.

    Attributes:
        nodes: in order, the image among them (op "image").
        image: its node.
        told: those of the condition's tensors (op "labels" or "numbers"), in order.
        result: what the forward answered.
        scratch: paths of attributes that the forward sets before it reads them: nothing that it depends on.
        elsewhere: tensors that it read and that the model does not hold, with the digests they had.
        written: what is held at a place in memory that the forward wrote, with the digest it left.
    """

    nodes: list[Node]
    image: Node
    told: list[Node]
    result: Output
    scratch: frozenset[str] = frozenset()
    elsewhere: list[tuple[Tensor, Any]] = field(default_factory=list)
    written: dict[Place, Any] = field(default_factory=dict)


def trace(model: nn.Module, x: Tensor, condition: Condition | None = None) -> Trace:
    """Record ``model(x)`` or ``model(x, condition)``, in eval mode.

    Raises:
        UnsupportedModelError: the result does not depend on the image, though it has several pixels, or an op has no
            meaning for a plan.
    """
    twin = shadow(model)
    held = holdings(twin)
    recorder = _Recorder()
    image = recorder.add_input("image", x, on_image=True)
    told = [
        recorder.add_input("numbers" if part.is_floating_point() else "labels", part, on_image=False)
        for part in tensors_of(condition)
    ]
    with (
        _module_paths(twin, recorder.modules), torch.no_grad(), uncast(), _attention_in_steps(),
        Comparing(recorder.on_image), recorder,
    ):  # fmt: skip
        try:
            result = twin(x, *arguments(condition))
        except (RuntimeError, ValueError) as error:
            kept = None if isinstance(error, UnsupportedModelError) else left_over(held, recorder.reading, BATCH)
            if kept is None:
                raise
            raise UnsupportedModelError(
                f"{kept}: holds a tensor {tuple(held[kept].shape)}, as a forward of {len(held[kept])} images leaves "
                f"one, with which a forward of {BATCH} fails; set it to what it was before that forward, or let each "
                f"forward make it for its own batch ({error})"
            ) from error
    if not isinstance(result, Tensor):
        raise UnsupportedModelError(f"model: expected a forward that returns one tensor, got {type(result).__name__}")
    output = recorder.find(result)
    if output is None or not output.node.on_image:
        if not (x.shape[2:] == result.shape[2:] == (1, 1) and len(result) == len(x)):
            raise UnsupportedModelError(
                "model: expected parameters that depend on the image, got some that do not: what leaves torch, as by "
                ".numpy(), is not followed"
            )
        output = recorder.fixed(result)  # of one pixel, which has no earlier one to depend on
    scratch = set_before_read(held, holdings(twin), recorder.outside)
    mine = {storage_of(each) for each in held.values() if isinstance(each, Tensor)}
    elsewhere = [
        (each, digest(each)) for storage, found in recorder.outside.items() if storage not in mine for each in found
    ]
    return Trace(recorder.nodes, image, told, output, scratch, elsewhere, recorder.written)


class _Recorder(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # saves the import of all of torch.compile, which takes longer than most traces

    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self.modules: list[str] = []
        self._outputs: dict[Place, Output] = {}
        self._stale: set[Place] = set()
        self._changed: dict[int, str] = {}  # storage → where what depends on the image was last written into it
        self._named: list[StorageWeakRef] = []  # so that no storage's name is used twice, though its memory may be
        self._fresh: set[int] = set()  # storages of what the forward wrote down as numbers
        self._bases: dict[int, Place] = {}  # storage → where the whole tensor lies in it
        self._captured: dict[int, list[Constant]] = {}  # storage → constants that nodes read from it
        self.reading: list[Tensor] = []  # what the op under way reads
        self.outside: dict[int, list[Tensor]] = {}  # storage → what was read of it, where the forward did not make it
        self.written: dict[Place, Any] = {}

    def add_input(self, name: str, tensor: Tensor, on_image: bool) -> Node:
        node = Node(name, _not_called, (), {}, "", on_image)
        self._record(node, [tensor])
        return node

    def find(self, tensor: Tensor) -> Output | None:
        place = place_of(tensor)
        if place not in self._stale:
            output = self._outputs.get(place)
            if output is not None or storage_of(tensor) not in self._changed or tensor.numel() == 0:
                return output
        return self._part_of_changed(tensor)

    def on_image(self, tensor: Tensor) -> bool:
        output = self.find(tensor)
        return output is not None and output.node.on_image

    def fixed(self, params: Tensor) -> Output:
        """Parameters that depend on the condition alone, or on nothing, as those of an image."""
        node = Node("fastgen.fixed", _not_called, (self._reference(params),), {}, "model", on_image=True)
        self._record(node, [params])
        return Output(node)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
        found = [output for output in map(self.find, tensors) if output is not None]
        mutated = written(func, args, kwargs)
        name = _name(func)
        self.reading = tensors
        self._look_outside(tensors, fresh=name == "aten.lift_fresh")
        for tensor in tensors:
            self._keep(tensor)  # before a view of it is made, which is not the whole
        if torch.Tag.nondeterministic_seeded in func.tags and "attention" not in name:  # refused as what it is
            raise UnsupportedModelError(f"{self._path()}: {name} draws random numbers: leave it to training")
        if not found or name in _VALUELESS:
            self._before_change(mutated)
            result = func(*args, **kwargs)
            self._note_written(mutated)
            for tensor in tree_flatten(result)[0]:
                if isinstance(tensor, Tensor):
                    self._keep(tensor)
            return result
        on_image = any(output.node.on_image for output in found)
        if torch.Tag.data_dependent_output in func.tags:
            self._refuse_reading(found)
        node = Node(name, func, *self._arguments(args, kwargs), self._path(), on_image)
        self._refuse_memory(node, mutated)
        self._before_change(mutated)
        before = [self._whole(tensor) for tensor in mutated]
        result = func(*args, **kwargs)
        if mutated:
            self._note_written(mutated)
            self._record(node, mutated)
            for tensor, base in zip(mutated, before, strict=True):
                self._after_change(tensor, base, node)
        else:
            self._record(node, [tensor for tensor in tree_flatten(result)[0] if isinstance(tensor, Tensor)])
        return result

    def _path(self) -> str:
        return self.modules[-1] if self.modules else "model"

    def _look_outside(self, tensors: list[Tensor], fresh: bool) -> None:
        for tensor in tensors:
            storage = storage_of(tensor)
            if fresh:
                self._fresh.add(storage)
            if storage in self.outside or (storage not in self._bases and not fresh):
                found = self.outside.setdefault(storage, [])
                if place_of(tensor) not in map(place_of, found):
                    found.append(tensor.detach())

    def _note_written(self, mutated: list[Tensor]) -> None:
        for tensor in mutated:
            if storage_of(tensor) in self.outside:
                self.written[place_of(tensor)] = digest(tensor)

    def _keep(self, tensor: Tensor) -> None:
        if storage_of(tensor) not in self._bases:
            self._named.append(StorageWeakRef(tensor.untyped_storage()))
            self._bases[storage_of(tensor)] = place_of(tensor)

    def _record(self, node: Node, results: list[Tensor]) -> None:
        self.nodes.append(node)
        for index, tensor in enumerate(results):
            node.shapes.append(tuple(tensor.shape))
            node.dtypes.append(tensor.dtype)
            self._keep(tensor)
            if tensor.numel() == 0:
                continue  # all of these lie at one place
            self._stale.discard(place_of(tensor))
            self._outputs[place_of(tensor)] = Output(node, index)

    def _arguments(self, args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        def convert(value: Any) -> Any:
            return self._reference(value) if isinstance(value, Tensor) else value

        return tree_map(convert, tuple(args)), tree_map(convert, dict(kwargs))

    def _reference(self, tensor: Tensor) -> Output | Constant:
        output = self.find(tensor)
        if output is not None:
            return output
        constant = Constant(tensor.detach())
        self._captured.setdefault(storage_of(tensor), []).append(constant)
        return constant

    def _refuse_reading(self, read: list[Output]) -> None:
        """Raise where a number is read that the image or real numbers decide: a plan is the same for all of them.

        Labels may be looked at, as ``F.one_hot`` does.
        """
        if any(output.node.on_image for output in read):
            raise UnsupportedModelError(
                f"{self._path()}: reads a number that depends on the image (.item(), if, or F.one_hot without "
                "num_classes): choose by torch.where"
            )
        if any(node.op == "numbers" for node in behind(output.node for output in read)):
            raise UnsupportedModelError(
                f"{self._path()}: reads a number that depends on the condition's numbers (.item(), or if): the plan "
                "would be that of one condition; choose by torch.where"
            )

    # ---- changes in place

    def _before_change(self, mutated: list[Tensor]) -> None:
        """Constants that were read before keep their value."""
        for tensor in mutated:
            for constant in self._captured.pop(storage_of(tensor), []):
                constant.tensor = constant.tensor.clone()

    def _refuse_memory(self, node: Node, mutated: list[Tensor]) -> None:
        """Raise where what an earlier forward left is changed by this one's image: no function of the image alone."""
        for tensor in mutated:
            kept = storage_of(tensor) in self.outside and storage_of(tensor) not in self._fresh
            if kept and node.on_image and node.op != "aten.copy" and self.find(tensor) is None:
                raise UnsupportedModelError(
                    f"{node.path}: {node.op} changes in place a tensor that outlives the forward, by what depends on "
                    "the image: each forward would depend on those before it"
                )

    def _whole(self, tensor: Tensor) -> tuple[Tensor, Output | Constant] | None:
        """The tensor of which ``tensor`` is a part, and what it is before the change; None if it is the whole."""
        _, offset, shape, strides = self._bases.get(storage_of(tensor), place_of(tensor))
        base = tensor.as_strided(shape, strides, offset)
        if place_of(base) == place_of(tensor):
            return None
        output = self.find(base)
        return base, Constant(base.detach().clone()) if output is None else output

    def _part_of_changed(self, tensor: Tensor) -> Output | None:
        """A view that was made before a change elsewhere in its memory: cut anew from the changed whole."""
        _, offset, shape, strides = self._bases[storage_of(tensor)]
        base = tensor.as_strided(shape, strides, offset)
        whole = self._outputs.get(place_of(base))
        window = None if whole is None else window_of(base, tensor)
        if whole is not None and window is not None:
            node = Node("fastgen.part", cut, (whole, *window), {}, self._path(), whole.node.on_image)
        elif whole is not None and base.is_contiguous() and tensor.is_contiguous() and base.numel() == tensor.numel():
            arguments = (whole, list(tensor.shape))
            view = torch.ops.aten.view.default
            node = Node("aten.view", view, arguments, {}, self._path(), whole.node.on_image)
        else:
            raise UnsupportedModelError(
                f"{self._changed[storage_of(tensor)]}: changes a tensor in place, of which another view, that is no "
                f"slice, was made before and is read afterwards in {self._path()}; make that view after the change, "
                "or change a clone"
            )
        self._record(node, [tensor])
        return self._outputs[place_of(tensor)]

    def _after_change(self, part: Tensor, whole: tuple[Tensor, Output | Constant] | None, node: Node) -> None:
        self._changed[storage_of(part)] = node.path
        for place in list(self._outputs):
            if place[0] == storage_of(part) and place != place_of(part):
                self._stale.add(place)
        if whole is not None:
            base, before = whole
            region = region_of(base, part)
            if region is None and _is_reshaped(base, part):  # as matmul leaves one
                arguments = (Output(node), list(base.shape))
                view = Node("aten.view", torch.ops.aten.view.default, arguments, {}, node.path, node.on_image)
                self._record(view, [base])
                return
            if region is None:
                raise UnsupportedModelError(f"{node.path}: {node.op} changes a view in place that is no slice")
            assign = Node(
                "fastgen.assign", assigned, (before, Output(node), region), {}, node.path, node.on_image
            )  # fmt: skip
            self._record(assign, [base])


def _is_reshaped(base: Tensor, part: Tensor) -> bool:
    """Whether ``part`` is all of ``base`` in another shape."""
    same = (base.storage_offset(), base.numel()) == (part.storage_offset(), part.numel())
    return same and base.is_contiguous() and part.is_contiguous()


def behind(nodes: Iterable[Node]) -> list[Node]:
    """``nodes``, and all that they depend on."""
    found: dict[int, Node] = {}
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if id(node) not in found:
            found[id(node)] = node
            pending += [each.node for each in tree_flatten((node.args, node.kwargs))[0] if isinstance(each, Output)]
    return list(found.values())


def _name(func: Any) -> str:
    namespace, name = func._schema.name.split("::")
    return f"{namespace}.{name.removesuffix('_')}"


def _not_called(*args: Any) -> None:
    raise AssertionError("inputs are not replayed")


@contextmanager
def _module_paths(model: nn.Module, stack: list[str]) -> Iterator[None]:
    """Keep on ``stack`` the paths of the modules whose forward is running."""
    hooks = []
    for path, module in model.named_modules():
        name = path or "model"
        hooks.append(module.register_forward_pre_hook(lambda *_, name=name: stack.append(name)))
        hooks.append(module.register_forward_hook(lambda *_: _pop(stack), always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _attention_in_steps() -> Iterator[None]:
    """Every attention as products and a softmax, the modules' short cuts included."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _pop(stack: list[str]) -> None:
    stack.pop()
