"""How every op that has a meaning for a plan can be called: made from the ops' own schemas, for test_schemas.py."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SCALES = torch.tensor([0.1, 1.0, 10.0, -0.1, -1.0, -10.0])
N, C, H, W = 3, 6, 3, 4
OTHER = torch.tensor([0.3, -0.7, 2.5, -0.2, 0.9, -8.0]).view(1, C, 1, 1)
WEIGHT = torch.linspace(-1, 1, C * C).view(C, C, 1, 1)
ORDER = torch.tensor([3, 0, 5])

#: Values of the arguments in a schema, by op and name, or by name; the first is used while others are tried. A function
#: makes one from h.
VALUES: dict[str, list[Any]] = {
    "min": [-0.7, None, 0.5], "max": [0.4, None, 20.0], "min_val": [-0.2, -3.0], "max_val": [0.6, 5.0],
    "clamp_min.min": [-0.7, 0.2], "clamp_max.max": [0.4, -0.2], "hardtanh.min_val": [-2.0, -0.05],
    "alpha": [1, 0.5, -2.0], "scale": [1, 1.5], "input_scale": [1, 0.7], "negative_slope": [0.01, 0.3],
    "elu.alpha": [1, 0.5], "celu.alpha": [1.0, 0.5, 3.0],
    "beta": [1, 2.0, 0.5], "threshold": [20, 1.0], "value": [1, 0.3], "correction": [1, 0, 2, None], "eps": [None, 0.1],
    "native_layer_norm.eps": [1e-5, 0.1], "approximate": ["none", "tanh"], "exponent": [2, 3, 1, 0.5],
    "threshold.threshold": [0.2, -0.5], "threshold.value": [0.3, -1.0], "flip.dims": [[1], [-3]],
    "shifts": [[1], [-2], [7]], "roll.dims": [[1], [-3]], "linalg_vector_norm.dim": [[1], [-3]],
    "ord": [2, 1, float("inf")], "cumsum.dim": [1, -3],
    "dim": [1, -3], "keepdim": [False, True], "dtype": [None], "dim0": [1], "dim1": [-3],
    "rounding_mode": [None, "floor"], "p": [0.5], "train": [False], "half_to_float": [False], "implicit": [False],
    "memory_format": [torch.contiguous_format], "clone.memory_format": [None, torch.preserve_format],
    "view.dtype": [torch.int32], "squeeze.dims.dim": [[1], [-3, 2]], "split.sizes.split_size": [[1, 5], [2, 2, 2]],
    "other": [2, -0.5, 0.3], "pow.Scalar.self": [2.0], "non_blocking": [False, True],
    "layout": [None], "device": [None], "pin_memory": [None],
    "sum.dim": [[1], [-3]], "mean.dim": [[1], [-3]], "var.dim": [[1], [-3]], "var_mean.dim": [[1]], "std.dim": [[1]],
    "amax.dim": [[1], [-3]], "amin.dim": [[1]], "logsumexp.dim": [[1], [-3]], "unsqueeze.dim": [2, -1, 0],
    "squeeze.dim": [1], "start": [None, 1, -4], "end": [None, 5, -1], "step": [1, 2], "index": [ORDER],
    "slice.dim": [1, 2, -1, -3], "select.dim": [1, -3], "select.index": [2, -1],
    "split.split_size": [2, 4], "split_sizes": [[1, 5]], "split.dim": [1, -3],
    "split_with_sizes.dim": [1, -3], "groups": [3], "repeats": [[1, 2, 1, 1]],
    "indices": [[None, ORDER], [None, torch.tensor([-1, 0, -6])], [None, torch.arange(C) > 2]],
    "concat_elu.padding": [[0, 0, 0, 0], [1, 0, 2, 0]],
    "pad": [[1, 0], [0, 0, 1, 0], [-1, 1, 0, 0, 1, 1]], "constant_pad_nd.value": [0, 1.5, -1e6],
    "normalized_shape": [[C]], "upscale_factor": [1], "downscale_factor": [1], "dims": [[0, 2, 3, 1], [0, -3, -2, -1]],
    "view.size": [(N, 2, 3, H, W)], "_unsafe_view.size": [(N, C, H * W)], "reshape.shape": [(N, 3, 2, H, W)],
    "_reshape_alias.size": [(N, C, H, W)], "_reshape_alias.stride": [(C * H * W, H * W, W, 1)],
    "expand.size": [(N, C, H, W), (-1, -1, -1, -1)],
    "upsample_nearest2d.output_size": [(4, 4)], "scale_factors": [None], "scales_h": [None, 2.0],
    "scales_w": [None, 2.0],
    "stride": [(1, 1)], "padding": [(0, 0)], "dilation": [(1, 1)], "transposed": [False, True],
    "output_padding": [(0, 0)], "convolution.groups": [1, 2], "training": [False], "momentum": [0.1],
    "native_batch_norm.eps": [1e-5, 0.1], "_native_batch_norm_legit_no_training.eps": [1e-5, 0.1],
    "_native_batch_norm_legit.eps": [1e-5, 0.1], "where.ScalarSelf.self": [0.5], "where.ScalarOther.other": [0.5],
    "where.Scalar.self": [0.5], "bitwise_and.Scalar.other": [True], "bitwise_or.Scalar.other": [True, False],
    "bitwise_and.Scalar_Tensor.self": [True], "bitwise_or.Scalar_Tensor.self": [False],
    "pixel_shuffle.upscale_factor": [2],
    "unbiased": [True, False], "var.dim.dim": [[1], [-3]], "var_mean.dim.dim": [[1]], "std.dim.dim": [[1]],
    "masked_conv2d.activation": ["none", "relu", "elu", "gated", "concat_elu"], "mask": ["B", "A"],
    "color_groups": [1, 3], "groups_order": ["contiguous", "interleaved"], "save_preactivation": [False],
    "scan": ["row"], "embedding.indices": [lambda h: (h[:, 2] > 0).long(), lambda h: (3 * h[:, 4].sin() + 3).long()],
    **{f"{name}.kernel_size": [[3, 2], [2], [1, 2]] for name in ("max_pool2d_with_indices", "avg_pool2d")},
    **{f"{name}.stride": [[1, 1], [1], [], [2, 1]] for name in ("max_pool2d_with_indices", "avg_pool2d")},
    "max_pool2d_with_indices.dilation": [[1, 1], [1]], "ceil_mode": [False, True], "count_include_pad": [True, False],
    "divisor_override": [None, 3], "nan": [None, 0.5], "posinf": [None], "neginf": [None],
    "native_group_norm.N": [N * H * W], "C": [C], "HxW": [1], "group": [3, 1, 6], "native_group_norm.eps": [1e-5, 0.1],
    "baddbmm.beta": [1], "baddbmm.alpha": [1],
    "padding_idx": [-1, 1], "scale_grad_by_freq": [False], "sparse": [False],
}  # fmt: skip

#: Tensors other than the image's features, likewise.
TENSORS: dict[str, list[Any]] = {
    "other": [OTHER, torch.tensor(0.3), torch.tensor([2.0]), torch.arange(1, W + 1), lambda h: OTHER.to(h) - h],
    "logical_and.other": [OTHER > 0, lambda h: h > -0.5], "logical_or.other": [OTHER > 0, lambda h: h > -0.5],
    "bitwise_and.other": [OTHER > 0, lambda h: h > -0.5], "bitwise_or.other": [OTHER > 0, lambda h: h > -0.5],
    "where.other": [OTHER, lambda h: 2 * h], "where.ScalarSelf.other": [lambda h: 2 * h],
    "where.Scalar.condition": [lambda h: h > 0.2], "bitwise_and.Scalar_Tensor.other": [lambda h: h],
    "bitwise_or.Scalar_Tensor.other": [lambda h: h], "pow.Scalar.exponent": [lambda h: h],
    "condition": [OTHER > 0, torch.tensor(True), torch.tensor(False)],
    "mask": [OTHER > 0, (torch.arange(H * W) % 3 == 0).view(H, W), lambda h: h > 0.2], "value": [torch.tensor(0.3)],
    "min": [OTHER - 1, None, lambda h: -0.5 * h], "max": [OTHER, None, lambda h: -0.5 * h],
    "clamp_min.min": [OTHER], "clamp_max.max": [OTHER],
    "exponent": [OTHER, lambda h: h],
    "tensor1": [OTHER, lambda h: h - 1], "tensor2": [-OTHER, lambda h: h + 1], "_prelu_kernel.weight": [OTHER],
    "copy.self": [torch.zeros(1, C, 1, 1).expand(N, C, H, W), lambda h: -h], "src": [lambda h: h],
    "index_select.index": [ORDER], "convolution.weight": [WEIGHT], "bias": [None, OTHER.flatten()],
    "mat2": [torch.linspace(-1, 1, 24).view(C, 4)], "addmm.self": [torch.tensor([0.5, -1, 2, 3]), torch.tensor(0.3)],
    "bmm.mat2": [torch.linspace(-1, 1, 24).view(1, C, 4).expand(N, C, 4)],
    "batch1": [lambda h: h], "batch2": [lambda h: h.transpose(1, 2)],
    "baddbmm.self": [torch.full((H * W, H * W), -torch.inf).triu(1)],
    "masked_conv2d.weight": [torch.linspace(-1, 1, 9 * C * C).view(C, C, 3, 3)],
    "residual_gate.h": [lambda h: torch.cat((h, 1 - h), 1), lambda h: h.repeat(1, 2, 1, 1)],
    "masked_conv2d.residual": [None, lambda h: h], "weight_out": [torch.linspace(-1, 1, C * C).view(C, C, 1, 1)],
    "gated_residual_block.weight": [torch.linspace(-0.3, 0.3, 18 * C * C).view(2 * C, C, 3, 3)],
    "gated_residual_block.bias": [None, torch.linspace(-1, 1, 2 * C)],
    **{
        f"{name}": [None, OTHER.flatten()]
        for name in (
            "bias_out", "masked_conv2d.bias", "native_layer_norm.weight", "native_layer_norm.bias",
            "native_group_norm.weight", "native_group_norm.bias",
            "native_batch_norm.weight", "native_batch_norm.bias", "_native_batch_norm_legit_no_training.weight",
            "_native_batch_norm_legit_no_training.bias", "_native_batch_norm_legit.weight",
            "_native_batch_norm_legit.bias",
        )
    },
    "embedding.weight": [torch.linspace(-1, 1, 7 * C).view(7, C)],
    "gates": [lambda h: h], "image_lstm.weight": [torch.linspace(-1, 1, 48).view(8, 2, 3)],
    "hidden": [torch.zeros(2), OTHER.flatten()[:2]], "cell": [torch.zeros(2), OTHER.flatten()[2:4]],
    "running_mean": [OTHER.flatten()], "running_var": [OTHER.flatten().abs()],
}  # fmt: skip


def flat(h: Tensor) -> Tensor:
    return h.permute(0, 2, 3, 1).reshape(-1, h.shape[1])


def truth(h: Tensor) -> Tensor:
    return h > 0


#: What an op reads instead of h, (N, 6, H, W): positive numbers, truth values, matrices.
INPUTS: dict[str, Any] = {
    **dict.fromkeys(("log", "sqrt", "rsqrt", "pow", "reciprocal"), lambda h: h.abs() + 0.1), "log1p": torch.abs,
    "logit": torch.sigmoid, "t": flat, "numpy_T": flat, "mm": flat, "addmm": flat,
    "bmm": lambda h: h.flatten(2).transpose(1, 2), "native_layer_norm": lambda h: h.movedim(1, -1),
    **dict.fromkeys(("logical_and", "logical_or", "logical_not"), truth),
    **dict.fromkeys(("bitwise_and", "bitwise_or", "bitwise_not"), truth),
    "native_group_norm": flat, "baddbmm": lambda h: h.flatten(2).transpose(1, 2),
    **dict.fromkeys(("max_pool2d_with_indices", "avg_pool2d"), lambda h: F.pad(h - 3, (1, 0, 2, 0))),
    "squeeze": lambda h: h[:, 1:2], "div": lambda h: h + 0.037, "upsample_nearest2d": lambda h: h[:, :, ::2, ::2],
    "pixel_shuffle": lambda h: h[:, :4, ::2, ::2], "image_lstm": lambda h: torch.cat((h, -h[:, :2]), 1).movedim(1, -1),
}  # fmt: skip

#: What a plan does not have: by op and overload where no call of it is planned, by op where some are not; and why.
REFUSED = {
    **dict.fromkeys(("max_pool2d_with_indices", "avg_pool2d"), "stand at other pixels"),
    "baddbmm.default": "attention scores or weights", "nan_to_num.default": "other than weights of attention",
    "pow.Tensor_Tensor": "a power other than of a tensor by a number", "pow.Scalar": "a power other than of a tensor",
    "sum.default": "over rows, columns or images", "mean.default": "over rows, columns or images",
    **dict.fromkeys(("max.default", "min.default"), "over rows, columns or images"),
    **dict.fromkeys(("var.default", "var_mean.default", "std.default"), "over rows, columns or images"),
    "view.dtype": "a result of torch.int32", "upsample_nearest2d.vec": "to more than the image",
    **dict.fromkeys(("slice", "unbind", "cat"), "a slice of images of the batch"),
    "div": "a division that rounds", "roll": "a roll of the flattened batch",
    "linalg_vector_norm": "over rows, columns or images",
    **dict.fromkeys(("var", "var_mean", "std", "amax", "amin", "sum", "mean"), "over rows, columns or images"),
}  # fmt: skip

#: Forms that torch has for a GPU alone, or as names for others; and one that crashes in torch itself.
ELSEWHERE = (
    "mm.dtype",
    "baddbmm.dtype",
    "addmm.dtype",
    "bmm.dtype",
    "copy.Dict_Tensor",
    "where.default",
    "_native_batch_norm_legit.no_stats",
)


@dataclass(frozen=True)
class Case:
    """One call: what each argument is, and how it is passed."""

    function: Any
    arguments: dict[str, Any]
    keywords: bool

    def __str__(self) -> str:
        return f"{self.function}({self.arguments}, keywords={self.keywords})"

    def __call__(self, h: Tensor) -> list[Tensor]:
        name = self.function._schema.name.split("::")[1]
        h = INPUTS.get(name, lambda h: h)(h)

        def resolve(value: Any) -> Any:
            value = value(h) if callable(value) else value
            return value.to(h.dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

        args, kwargs = [], {}
        for argument in self.function._schema.arguments:
            if argument.name in self.arguments:
                value = resolve(self.arguments[argument.name])
                if argument.kwarg_only or (self.keywords and argument.has_default_value()):
                    kwargs[argument.name] = value
                else:
                    args.append(value)
        result = self.function(*args, **kwargs)
        return [result] if isinstance(result, Tensor) else [*result]


#: Of dimensions with names, which are strings to torch 2.11's schemas.
NAMED = ("dimname", "names")


def overloads(name: str) -> Iterator[Any]:
    """The functional forms of an op: none with out=, names of dimensions, or changes in place."""
    namespace, op = name.split(".")
    packet = getattr(getattr(torch.ops, namespace), op)
    for overload in packet.overloads():
        function = getattr(packet, overload)
        schema = str(function._schema)
        if str(function).split(".", 1)[1] in ELSEWHERE or any(word in overload for word in NAMED):
            continue
        strange = ("Dimname", "!", "-> str", "-> int", "-> float", "-> Scalar", "-> bool", "hacked_twin", "[] a")
        if "Tensor" in schema.split(" -> ")[0] and not any(word in schema for word in strange):
            yield function


def cases(function: Any) -> Iterator[Case]:
    """Every argument in every form, while the others have their first: left out, by position, by keyword.

    Raises:
        KeyError: an argument has no values in the tables above.
    """
    schema = function._schema
    op = schema.name.split("::")[1]
    values: dict[str, list[Any]] = {}
    for argument in schema.arguments:
        kind, name = str(argument.type), argument.name
        of_image = name in ("self", "input", "x", "mat1") and kind == "Tensor" and f"{op}.{name}" not in TENSORS
        if of_image:
            values[name] = [lambda h: h]
        elif kind.startswith("List[Tensor]"):
            values[name] = [_side_by_side]
        else:
            table = TENSORS if "Tensor" in kind and name != "indices" else VALUES
            keys = [f"{op}.{function._overloadname}.{name}", f"{op}.{name}", name]
            values[name] = next((table[key] for key in keys if key in table), None) or _missing(keys[0])
    first = {name: some[0] for name, some in values.items()}
    needed = {a.name: first[a.name] for a in schema.arguments if not a.has_default_value()}
    yield Case(function, needed, False)
    last = schema.arguments[-1].name
    for name, some in values.items():
        for value in some:
            if name not in needed:
                yield Case(function, {**needed, name: value}, True)
            if value is not some[0] or name == last:
                yield Case(function, {**first, name: value}, False)
    if {"self", "other"} <= set(values) and op != "where" and "Scalar" not in function._overloadname:
        yield Case(function, {**needed, "self": values["other"][0], "other": lambda h: h}, False)


def _missing(argument: str) -> list[Any]:
    raise KeyError(f"{argument}: no values to call it with in tests/schemas.py")


def _side_by_side(h: Tensor) -> list[Tensor]:
    return [h, OTHER.to(h).expand(h.shape)]


def features(x: Tensor) -> Tensor:
    """H (N, 6, H, W) of several magnitudes, each pixel from above it and to the left."""
    return F.pad(x, (1, -1, 1, -1)) * SCALES.to(x).view(1, C, 1, 1)


def as_image(y: Tensor) -> Tensor:
    """Whatever an op made of h, as (N, channels, H, W)."""
    if y.dim() == 5:
        y = y.squeeze(-1) if y.shape[-1] == 1 else (y if y.shape[0] == N else y.transpose(0, 1)).flatten(1, 2)
    elif y.dim() == 3 and y.shape[1:] == (H, W):
        y = y.unsqueeze(1)
    elif y.dim() == 3:
        y = (y if y.shape[2] == H * W else y.transpose(1, 2)).unflatten(2, (H, W))
    elif y.dim() == 2:
        y = (y if y.shape[0] == N * H * W else y.t()).view(N, H, W, -1).movedim(-1, 1)
    if y.dim() == 4 and y.shape[1:3] == (H, W):
        y = y.movedim(-1, 1)
    return F.pad(y, (0, W - y.shape[3], 0, H - y.shape[2]))
