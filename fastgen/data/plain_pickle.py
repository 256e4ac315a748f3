"""Reads the one kind of pickle that a CIFAR-10 batch is: containers, bytes, integers, and arrays of uint8.

Python's unpickler calls what a file names, with arguments from the file; NumPy's constructors, so called, take pointers
and dtypes from it. Here nothing is called: an opcode outside of the few that such a file needs is refused, three names
of NumPy's stand for what this module itself builds, and no size from the file is allocated.
"""

import math
import pickletools
from typing import Any

import numpy as np

_MARK, _NDARRAY, _UINT8 = object(), object(), object()
_RECONSTRUCT, _DTYPE, _ENCODE = object(), object(), object()
_NUMPY = {"ndarray": _NDARRAY, "dtype": _DTYPE, "_reconstruct": _RECONSTRUCT}

_TEXT = ("STRING", "BINSTRING", "SHORT_BINSTRING")  # Python 2's str: bytes
_VALUES = (
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "BINFLOAT"),
)
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Array:
    """What ``_reconstruct`` makes: empty until the file says what it holds."""

    def __init__(self) -> None:
        self.value: np.ndarray | None = None


def load(data: bytes) -> Any:
    """What the pickle holds: dicts, lists, tuples, bytes, strings, numbers and uint8 arrays.

    Raises:
        ValueError: it is cut short or no pickle, or holds anything else; the message names that.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            machine.step(opcode.name, argument)
        return machine.result()
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no well-formed pickle: {error}") from error


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def result(self) -> Any:
        (value,) = self.stack
        return _array(value)

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _TEXT:
            stack.append(argument.encode("latin1"))
        elif name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("EMPTY_LIST", "EMPTY_DICT"):
            stack.append([] if name == "EMPTY_LIST" else {})
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
        elif name == "TUPLE":
            stack.append(tuple(self._since_mark()))
        elif name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS"):
            self._fill(name)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if argument is None else argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            module, word = argument.split(" ", 1) if argument is not None else (stack.pop(-2), stack.pop())
            stack.append(_global(module, word))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_call(function, arguments))
        elif name == "BUILD":
            state = stack.pop()
            _build(stack[-1], state)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise ValueError(f"the pickle opcode {name} is not admitted")

    def _since_mark(self) -> list[Any]:
        at = len(self.stack) - 1 - next(i for i, value in enumerate(reversed(self.stack)) if value is _MARK)
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def _fill(self, name: str) -> None:
        pairs = name.startswith("SETITEM")
        items = self._since_mark() if name.endswith("S") else [self.stack.pop() for _ in range(1 + pairs)][::-1]
        target = self.stack[-1]
        if not pairs and isinstance(target, list):
            target.extend(map(_array, items))
        elif pairs and isinstance(target, dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                if not isinstance(key, (bytes, str)):
                    raise ValueError(f"a key of type {type(key).__name__} is not admitted")
                target[key] = _array(value)
        else:
            raise ValueError(f"no well-formed pickle: {name} of what is no {'dict' if pairs else 'list'}")


def _array(value: Any) -> Any:
    """An array in place of what stood for it while it was built."""
    return value.value if isinstance(value, _Array) else value


def _global(module: Any, name: Any) -> Any:
    if str(module).partition(".")[0] == "numpy" and name in _NUMPY:
        return _NUMPY[name]
    if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes for Python 2
        return _ENCODE
    raise ValueError(f"{module}.{name} is not admitted"[:200])


def _call(function: Any, arguments: Any) -> Any:
    if function is _ENCODE and len(arguments) == 2 and isinstance(arguments[0], str) and arguments[1] == "latin1":
        return arguments[0].encode("latin1")
    if function is _DTYPE:
        if arguments[0] not in ("u1", b"u1") or arguments[1:] not in ((0, 1), (False, True)):
            raise ValueError(f"only arrays of uint8 are admitted, not of dtype{arguments!r}"[:200])
        return _UINT8
    if function is _RECONSTRUCT and arguments[0] is _NDARRAY and arguments[1:] in (((0,), b"b"), ((0,), "b")):
        return _Array()
    raise ValueError("a call is not admitted, but NumPy's own of _reconstruct and dtype")


def _build(target: Any, state: Any) -> None:
    if target is _UINT8 and state[:2] in ((3, "|"), (3, b"|")):
        return
    if not isinstance(target, _Array) or len(state) != 5 or state[2] is not _UINT8:
        raise ValueError("a state is not admitted, but that of an array of uint8")
    _, shape, _, fortran, data = state
    sizes = isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape)
    if not sizes or len(shape) > 4 or not isinstance(data, bytes) or math.prod(shape) != len(data):
        raise ValueError("an array whose bytes are not as many as its shape says is not admitted")
    target.value = np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")
