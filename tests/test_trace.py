"""Tracing records what depends on the image, under the module that did it, and computes everything else."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen.sampling import UnsupportedModelError
from fastgen.sampling.trace import BATCH, Constant, Output, trace

X = torch.randn(BATCH, 1, 4, 5)


class Model(nn.Module):
    def __init__(self, function: object, **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.function(self, x) if labels is None else self.function(self, x, labels)  # type: ignore[operator]


def ops(model: nn.Module, *inputs: Tensor) -> list[tuple[str, str]]:
    return [(node.op.removeprefix("aten."), node.path) for node in trace(model.eval(), X, *inputs).nodes]


def test_constants_are_folded():
    conv = nn.Conv2d(1, 2, 3, padding=1)
    mask = torch.ones(3, 3).triu()
    model = Model(lambda self, x: F.conv2d(x, self.conv.weight * mask, self.conv.bias), conv=conv)
    recorded = trace(model, X)
    assert [node.op for node in recorded.nodes] == ["image", "aten.convolution"]
    weight = recorded.nodes[1].args[1]
    assert isinstance(weight, Constant)
    assert torch.equal(weight.tensor, conv.weight * mask)


def test_weights_that_are_changed_between_two_uses():
    """A constant keeps the value that it had when it was read."""

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        y = self.conv(x)
        self.conv.weight.data *= 0
        return y + self.conv(x)

    conv = nn.Conv2d(1, 1, 1)
    before = conv.weight.detach().clone()
    first, second = (node.args[1].tensor for node in trace(Model(forward, conv=conv), X).nodes if "conv" in node.op)
    assert torch.equal(first, before)
    assert not second.any()


def test_ops_carry_the_path_of_their_module():
    inner = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(inplace=True))
    recorded = ops(Model(lambda self, x: self.body(x) + 1, body=inner))
    assert recorded == [("image", ""), ("convolution", "body.0"), ("relu", "body.1"), ("add", "model")]


def test_hooks_are_removed_even_after_an_error():
    def fail(self: nn.Module, x: Tensor) -> Tensor:
        raise RuntimeError("no")

    model = Model(fail, conv=nn.Conv2d(1, 1, 1))
    with pytest.raises(RuntimeError, match="no"):
        trace(model, X)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_changes_in_place_become_new_values():
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        y = x * 2
        y += 1
        y.relu_()
        return y

    assert [op for op, _ in ops(Model(forward))] == ["image", "mul", "add", "relu"]


def test_a_change_of_all_of_a_tensor_in_another_shape():
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        y = x * 2
        y.view(BATCH, 20).add_(1)
        return y * 3

    assert [op for op, _ in ops(Model(forward))] == ["image", "mul", "view", "add", "view", "mul"]
    recorded = trace(Model(forward), X)
    assert recorded.result.node.args[0].shape == X.shape

    def of_a_half(self: nn.Module, x: Tensor) -> Tensor:
        y = x * 2
        y.view(BATCH, 20)[:, ::2].add_(1)
        return y * 3

    with pytest.raises(UnsupportedModelError, match="changes a view in place that is no slice"):
        trace(Model(of_a_half), X)


def test_assignment_to_a_slice_is_an_op_of_its_own():
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        moved = torch.zeros_like(x)
        moved[:, :, 1:] = x[:, :, :-1]
        return moved

    recorded = trace(Model(forward), X)
    assign = recorded.result.node
    assert assign.op == "fastgen.assign"
    base, part, (slices, missing) = assign.args
    assert isinstance(base, Constant)
    assert isinstance(part, Output)
    assert slices == [(0, 1, BATCH), (0, 1, 1), (1, 1, 3), (0, 1, 5)]
    assert missing == []


def test_a_view_is_cut_anew_after_a_change_elsewhere_in_its_memory():
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        y = x * 1
        top = y[:, 0, :2].transpose(1, 2)
        y.relu_()
        return top + 1  # torch gives top the new values

    nodes = trace(Model(forward), X).nodes
    part = next(node for node in nodes if node.op == "fastgen.part")
    assert part.args[0].node.op == "aten.relu"
    value = torch.rand(BATCH, 1, 4, 5)
    assert torch.equal(part.function(value, *part.args[1:]), value[:, 0, :2].transpose(1, 2))


def test_a_view_that_cannot_be_cut_anew_is_refused():
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        y = x * 1
        repeated = y.expand(-1, 3, -1, -1)
        y.relu_()
        return repeated + 1

    with pytest.raises(UnsupportedModelError, match="another view, that is no slice, was made before and is read"):
        trace(Model(forward), X)


def test_a_forward_that_adds_to_what_the_last_one_left_is_refused():
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        self.memory[:, :, 1:] += x[:, :, 1:]
        return self.memory * 1

    model = Model(forward)
    model.memory = torch.zeros(BATCH, 1, 4, 5)
    with pytest.raises(UnsupportedModelError, match=r"aten\.add changes in place a tensor that outlives the forward"):
        trace(model, X)


def test_labels_are_told_from_the_image():
    embedding = nn.Embedding(3, 1)
    model = Model(lambda self, x, labels: x + self.embedding(labels)[:, :, None, None], embedding=embedding)
    recorded = trace(model, X, torch.zeros(BATCH, dtype=torch.int64))
    on_image = {node.op: node.on_image for node in recorded.nodes}
    assert on_image == {
        "image": True, "labels": False, "aten.embedding": False, "aten.unsqueeze": False, "aten.add": True,
    }  # fmt: skip


def test_a_number_read_from_the_labels_is_allowed_and_from_the_image_refused():
    trace(Model(lambda self, x, labels: x if labels.max().item() < 3 else -x), X, torch.zeros(BATCH, dtype=torch.int64))
    with pytest.raises(UnsupportedModelError, match=r"model: reads a number that depends on the image"):
        trace(Model(lambda self, x: x if x.max().item() < 9 else -x), X)


def test_a_forward_that_draws_is_refused():
    model = Model(lambda self, x: F.dropout(x, training=True))
    with pytest.raises(UnsupportedModelError, match="draws random numbers"):
        trace(model, X)
