"""Direct calls of ``torch.ops.fastgen.*`` with arguments that no public function would pass.

Case ``index`` depends on its number alone: the arguments of tests/op_arguments.py and the plans of tests/plans.py, of
which one to three are replaced. What a case may do is raise, or answer; what it may not is touch memory that is not its
own, which the sanitizers say (see tests/test_native_fuzz.py).
"""

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import plans
from fastgen.sampling.plan import Step
from op_arguments import ARGUMENTS

OPS = sorted(op for op in ARGUMENTS if op.split("_backward")[0] in (
    "batch_norm_apply", "batch_norm_statistics", "discretized_logistic_mixture", "gated_activation", "masked_conv2d",
    "rsample_kl",
))  # fmt: skip
NUMBERS = (-(2**63), -(2**61), -7, -2, -1, 0, 1, 2, 3, 4, 5, 31, 64, 1000, 2**24, 2**30, 2**31 - 1, 2**31, 2**32, 2**40)
NUMBERS += (2**59, 2**60, 2**61, 2**62, 2**63 - 1)
WORDS = ("", "A", "B", "C", "none", "relu", "elu", "concat_elu", "gated", "contiguous", "interleaved")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
FLOATS = (0.0, -1.0, 1e-30, 1e300, float("inf"), float("nan"))
LARGEST = 2**24  # elements of a state that is walked; a larger one is asked for, but not used


def run_case(seed: int, index: int) -> str:
    """Make one call; its name, and what came of it."""
    rng = random.Random(f"{seed} {index}")
    torch.manual_seed(rng.getrandbits(32))
    if rng.random() < 0.4:
        return _plan_case(rng)
    if rng.random() < 0.05:
        return _transposed_case(rng)
    op = rng.choice(OPS)
    makers = ARGUMENTS[op]
    args = list(rng.choice(makers)(rng.choice(DTYPES[:4])))
    if op in ("rsample_kl", "rsample_kl_backward"):  # not the longest rows
        args = list(makers[0](rng.choice(DTYPES[:4])))
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(args))
        args[at] = _replaced(args[at], args, rng)
    return f"{op}: {_called(getattr(torch.ops.fastgen, op).default, *args)}"


def _transposed_case(rng: random.Random) -> str:
    """A transposed convolution of any sizes, of which some do not fit."""
    H, W, KH, KW, *channels = (rng.randint(1, 5) for _ in range(7))
    N, I, O = channels
    x, weight = torch.randn(N, I, H, W), torch.randn(I, O, KH, KW)
    args: list[Any] = [x, weight, rng.choice((None, torch.randn(O)))]
    args += [[rng.randint(low, 3) for _ in range(2)] for low in (1, 0, 0)]
    args[5] = [min(each, stride - 1) for each, stride in zip(args[5], args[3], strict=True)]
    for _ in range(rng.choice((0, 1, 1, 2))):
        at = rng.randrange(len(args))
        args[at] = (
            _replaced(args[at], args, rng) if at < 3 else [rng.choice(NUMBERS[:14]), *args[at][rng.randint(1, 2) :]]
        )
    name = rng.choice(("conv_transpose2d_products", "conv_transpose2d_image"))
    if name == "conv_transpose2d_image":
        args += [rng.choice(("none", "relu", "leaky_relu", "tanh", "tanh", "")), rng.random()]
        dtype = rng.choice((torch.float32, torch.bfloat16, torch.float16))
        args[:3] = [
            arg.to(dtype) if isinstance(arg, Tensor) and arg.dtype == torch.float32 else arg for arg in args[:3]
        ]
    return f"{name}: {_called(getattr(torch.ops.fastgen, name).default, *args)}"


def _called(op: Callable[..., Any], *args: Any) -> str:
    try:
        results = op(*args)
    except Exception as error:  # a refusal is as good as an answer
        return type(error).__name__
    for result in results if isinstance(results, tuple) else (results,):
        if isinstance(result, Tensor) and result.numel() < LARGEST:
            result.clone()  # reads all of it
    return "answered"


def _replaced(value: Any, args: list[Any], rng: random.Random) -> Any:
    try:
        return _other(value, args, rng)
    except RuntimeError:  # torch makes no such tensor
        return value


def _other(value: Any, args: list[Any], rng: random.Random) -> Any:
    """Something in place of ``value`` that the dispatcher lets pass."""
    if isinstance(value, Tensor):
        return rng.choice((_retyped, _reshaped, _restrided, _of_others))(value, args, rng)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice(NUMBERS)
    if isinstance(value, float):
        return rng.choice(FLOATS)
    if isinstance(value, str):
        return rng.choice(WORDS)
    if isinstance(value, list):
        return [rng.random() < 0.5 for _ in range(rng.randrange(5))]
    return rng.choice([one for one in args if isinstance(one, Tensor)])


def _retyped(value: Tensor, args: list[Any], rng: random.Random) -> Tensor:
    return value.to(rng.choice(DTYPES))


def _reshaped(value: Tensor, args: list[Any], rng: random.Random) -> Tensor:
    """Other sizes: one of them changed, the rank, two swapped, or the same elements in another shape."""
    shape, n = list(value.shape), value.dim()
    way = rng.randrange(6)
    if way == 0 and n:
        shape[rng.randrange(n)] = rng.choice((0, 1, 2, 3, 4, 5, 12))
    elif way == 1 and n:
        return value.select(rng.randrange(n), 0) if 0 not in shape else value.flatten()
    elif way == 2:
        return value.unsqueeze(rng.randint(0, n))
    elif way == 3 and n > 1:
        return value.transpose(*rng.sample(range(n), 2))
    elif way == 4 and value.numel() % 2 == 0:
        return value.reshape(2, -1) if value.numel() else value.reshape(0, 5)
    else:
        shape = [rng.choice((0, 1, 2, 3, 5)) for _ in range(rng.randrange(6))]
    return torch.ones(shape, dtype=value.dtype)


def _restrided(value: Tensor, args: list[Any], rng: random.Random) -> Tensor:
    """The same sizes, or a huge one, with strides of 0, 1 and 2."""
    way = rng.randrange(4)
    if way == 0:
        return value.flatten()[:1].reshape([1] * value.dim()).expand(value.shape) if value.numel() else value
    if way == 1:
        return _every_second(value)
    if way == 2 and value.dim() == 4:
        return value.contiguous(memory_format=torch.channels_last)
    if value.dim() == 0 or value.numel() == 0:
        return value
    shape = list(value[:1].shape if rng.random() < 0.5 else value.shape)
    narrow = [1] * len(shape)
    at = rng.randrange(len(shape))
    shape[at] = rng.choice((2**20, 2**31, 2**40, 2**59))
    narrow[at] = 1
    return value.flatten()[:1].reshape(narrow).expand(shape)


def _every_second(value: Tensor) -> Tensor:
    """Every second element of a tensor twice as wide."""
    return torch.stack((value, value), dim=-1).flatten(-2)[..., ::2] if value.dim() else value


def _of_others(value: Tensor, args: list[Any], rng: random.Random) -> Tensor:
    return rng.choice([one for one in args if isinstance(one, Tensor)])


# ---- sampling plans


def _wide(rng: random.Random) -> Any:
    """Steps that double the channels, then steps that halve them."""
    times = rng.choice((1, 2, 5, 20, 31, 60, 62))
    return plans.step_plan(2, *[Step("concat_elu")] * times, *[Step("gate")] * times)


def _plan(rng: random.Random) -> Any:
    """A small plan, some of whose maps keep other numbers of rows."""
    made = rng.choice((
        lambda: plans.deep_plan(C=1, levels=rng.choice((1, 3)), channels=8),
        lambda: plans.step_plan(6, Step("norm", (3.0, 1e-5))),
        lambda: plans.step_plan(5, Step("concat_elu"), Step("gate")),
        lambda: _wide(rng),
        plans.plan_with_constants,
    ))()  # fmt: skip
    for buffer in made.buffers[1:]:
        if rng.random() < 0.1:
            buffer.keep = rng.choice((1, 2, 5, 2**30))
    return made


def _plan_case(rng: random.Random) -> str:
    """Codes of a plan, some of them replaced; then every op that reads them, as far as they let it come."""
    ops = torch.ops.fastgen
    plan = _plan(rng)
    codes, constants = plan.encode()
    for _ in range(rng.choice((0, 0, 0, 0, 1, 1, 2))):
        codes[rng.randrange(len(codes))] = rng.choice(NUMBERS)
    N = rng.choice((0, 1, 3, 5))
    isa = rng.choice(("", "portable", "avx2", "mmx"))
    try:
        packed = ops.sample_pack.default(codes, constants, isa)
    except Exception as error:
        return f"sample_pack: {type(error).__name__}"
    C, H, W = codes[:3].tolist()
    chunk = rng.choice((1, 2, N, *NUMBERS)) if rng.random() < 0.2 else max(1, N)
    images = rng.choice(NUMBERS) if rng.random() < 0.1 else N
    if C * H * W > 10**4 or codes[3:7].abs().max() > 50:
        return f"sample_state: {_called(ops.sample_state.default, codes, constants, images, chunk)}"
    try:
        state = ops.sample_state.default(codes, constants, images, chunk)
    except Exception as error:
        return f"sample_state: {type(error).__name__}"
    if state.numel() > LARGEST or (codes > 2000).any():
        return "sample_state: too large to walk"
    levels = max(2, max((param.channels for param in plan.params), default=1))
    shape = (N, C, H, W)
    given = [torch.randn(N, *sizes) for kind, sizes in _given(codes) if kind]
    if rng.random() < 0.4:
        op = "sample_between"
        draw = rng.choice((0, 1, C * H * W - 1, C * H * W, rng.choice(NUMBERS)))
        channels = plan.params[draw % C].channels if draw >= 0 and len(plan.params) == C else 1
        args = [codes, constants, packed, state, given, torch.randn(N, C), torch.zeros(N, channels), chunk, draw]
    else:
        components = plan.params[0].channels // (10 if C == 3 else 3) if rng.random() < 0.3 else 0
        P = sum(param.channels for param in plan.params[: 1 if components else None])
        op, P, each = "sample", int(rng.choice((0, P))), 2 if components else 1
        known = torch.randint(levels, shape) if rng.random() < 0.7 else torch.randint(-3, 2**40, shape)
        first, last = (0, H) if rng.random() < 0.7 else (rng.choice((-1, 0, 1, H)), rng.choice((0, 1, H, 2 * H, 9 * W)))
        args = [
            codes, constants, packed, state, given, torch.rand((N, each * C, H, W), dtype=torch.float64),
            torch.randn(C, levels, 1),
            known if rng.random() < 0.5 else torch.zeros(0, dtype=torch.int64),
            torch.rand(shape) < 0.5 if rng.random() < 0.5 else torch.zeros(0, dtype=torch.bool), 1.0,
            components, torch.zeros(shape, dtype=torch.int64), torch.zeros((N, P, H, W) if P else 0), chunk, first,
            last,
        ]  # fmt: skip
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        at = rng.randrange(2, len(args))
        if isinstance(args[at], list):
            args[at] = args[at][:-1] if rng.random() < 0.5 else [_replaced(one, [one], rng) for one in args[at]]
        else:
            args[at] = _replaced(args[at], [one for one in args if isinstance(one, Tensor)], rng)
    if rng.random() < 0.1 and len(constants):  # memory that is written and read: the plan changes after its checks
        wide = torch.zeros(max(len(constants), state.numel()))
        wide[: len(constants)] = constants
        args[1], args[3] = wide[: len(constants)], wide[: state.numel()]
    return f"{op}: {_called(getattr(ops, op).default, *args)}"


def _given(codes: Tensor) -> list[tuple[bool, list[int]]]:
    """Of every buffer, whether it is given, and rows, columns and channels."""
    at, found = 8, []
    for _ in range(int(codes[7])):
        kind, *sizes = codes[at : at + 4].tolist()
        found.append((kind == 3, sizes))
        at += 6
    return found
