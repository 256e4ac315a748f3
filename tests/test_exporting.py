"""``fastgen.exporting``: files that run without fastgen, for a batch of any size, and compute what the model does."""

import copy
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from fastgen import models
from fastgen.exporting import BATCHES, Exported, export, formats, parts_of
from fastgen.exporting.folding import fold
from fastgen.exporting.layers import plain
from fastgen.nn import ConvTranspose2dBatchNorm, ConvTranspose2dChain
from parity import assert_parity
from rounding import moved_by_rounding

MODELS: dict[str, Callable[[], models.Model]] = {
    "vae": lambda: models.VAE(1, 17, 3, (8,), classes=3, image_size=8),
    "convolutional": lambda: models.VAE(3, 256, 3, (), (4, 6, 8), likelihood="gaussian", image_size=(9, 16)),
    "autoencoder": lambda: models.Autoencoder(1, 4, 3, (), (4, 6), image_size=8),
    "gan": lambda: models.GAN(1, 17, 3, (8,), (4,), classes=3, image_size=8),
    "dcgan": lambda: models.DCGAN(1, 256, 5, 4, "spectral", classes=3, image_size=16),
    "resnet": lambda: models.ResNetGAN(1, 256, 4, 4, classes=3, image_size=9),
    "infogan": lambda: models.InfoGAN(1, 256, 9, categories=(4,), continuous=2, image_size=16, channels=8, hidden=32),
    "adversarial": lambda: models.AdversarialAutoencoder(1, 17, "normal", 5.0, 3, hidden=(6,), classes=3, image_size=8),
    "roll": lambda: models.AdversarialAutoencoder(1, 17, "swiss-roll", hidden=(6,), classes=3, image_size=8),
    "classifier": lambda: models.Classifier(1, 5, 4, 8, {"code": 3, "hidden": (6,), "channels": (2,)}),
}
PARTS = [("vae", "encoder"), ("convolutional", "decoder"), ("classifier", "classifier"), ("dcgan", "generator")]
PARTS += [("resnet", "generator"), ("infogan", "generator"), ("adversarial", "decoder")]

NORMS = {
    **{("convolutional", "decoder"): (0, 2), ("dcgan", "generator"): (0, 2), ("infogan", "generator"): (0, 3)},
    ("resnet", "generator"): (2, 1),
}
"""Of each part, batch norms that stay, since they read a sum; and that are folded."""

ALONE = """
import json, sys, torch
sys.path.insert(0, "")
about = {"fastgen.json": ""}
program = torch.export.load(sys.argv[1], extra_files=about).module()
given, expected = torch.load(sys.argv[2])
assert torch.equal(program(*given), expected)
assert not [name for name in sys.modules if name.split(".")[0] == "fastgen"]
print(json.loads(about["fastgen.json"])["part"])
"""
"""What a process does that knows nothing of fastgen."""


def trained(name: str) -> Any:
    """A model in training mode, whose batch norms have statistics of their own."""
    torch.manual_seed(3)
    return settled(MODELS[name]()).train()


@torch.no_grad()
def settled(model: Any) -> Any:
    for norm in model.modules():
        if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for tensor in (norm.running_mean, norm.weight, norm.bias):
                if tensor is not None:
                    tensor.normal_()
            assert norm.running_var is not None
            norm.running_var.uniform_(0.5, 2)
    return model


def assert_agrees(run: Callable[..., Tensor], model: Any, done: Exported) -> None:
    """A program computes what the model does in eval mode, at sizes of a batch that it was not held against before."""
    model, of = copy.deepcopy(model).eval(), done.part
    exact = copy.deepcopy(model).double()
    for n in (3, 16):
        given = of.example(model, n, seed=100 + n)
        wide = [each.double() if each.is_floating_point() else each for each in given]
        with torch.no_grad():
            expected, true = getattr(model, of.method)(*given), getattr(exact, of.method)(*wide)
            moved = lambda: moved_by_rounding(lambda: [getattr(exact, of.method)(*wide)], torch.float32)[0]  # noqa: E731, B023
            assert_parity(run(*given), expected, true, moved)
        assert expected.std() > 0


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_a_program_computes_what_the_model_does(name: str, part: str, tmp_path: Path) -> None:
    model, path = trained(name), tmp_path / "part.pt2"
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    done = export(model, path, part, {"run": "mine"})
    assert model.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert done.agreement.off <= done.agreement.allowed < 1e-3
    extra = {formats.ABOUT: ""}
    program = torch.export.load(path, extra_files=extra)
    called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    kept, folded = NORMS.get((name, part), (0, 0))
    assert (sum("batch_norm" in target for target in called), done.folded) == (kept, folded)
    assert not any("fastgen" in target for target in called)
    read = {name.split(".")[1] for name in program.state_dict if not name.startswith("folded")}
    assert read <= ({"encoder_network", "head"} if part == "classifier" else {part}), "and of no other part"
    about = json.loads(extra[formats.ABOUT])
    assert (about["run"], about["part"], about["levels"]) == ("mine", part, model.levels)
    assert (
        list(about["inputs"])
        == [node.name for node in program.graph.nodes if node.op == "placeholder"][-len(done.part.inputs) :]
    )
    assert [path.name for path in tmp_path.iterdir()] == ["part.pt2"]


def test_an_onnx_computes_what_the_model_does(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime comes with fastgen[onnx]")
    for name, part in (("dcgan", "generator"), ("vae", "encoder")):
        model, path = trained(name), tmp_path / "part.onnx"
        done = export(model, path, part)
        session = runtime.InferenceSession(path.read_bytes())
        assert [each.name for each in session.get_inputs()] == list(done.part.inputs)
        assert [each.name for each in session.get_outputs()] == [done.part.output[0]]
        assert session.get_inputs()[0].shape == list(done.part.inputs[session.get_inputs()[0].name].shape)

        def run(*given: Tensor, session: Any = session, done: Exported = done) -> Tensor:
            named = dict(zip(done.part.inputs, (each.numpy() for each in given), strict=True))
            return torch.from_numpy(session.run(None, named)[0])

        assert_agrees(run, model, done)
        given = done.part.example(model, 2, seed=0)[0]
        for wrong in (3, -1):  # of which one-hot vectors would be zeros, and the image of no class
            with pytest.raises(Exception, match=f"invalid index found, index = {wrong % 4}"):
                run(given, torch.tensor([0, wrong]))
        about = json.loads(session.get_modelmeta().custom_metadata_map["fastgen"])
        assert about["part"] == part
        assert about["outputs"][done.part.output[0]]["shape"] == list(done.part.output[1].shape)
    assert [path.name for path in tmp_path.iterdir()] == ["part.onnx"]


def test_a_program_runs_where_fastgen_is_not(tmp_path: Path) -> None:
    model, path = trained("vae"), tmp_path / "part.pt2"
    done = export(model, path)
    given = done.part.example(model, 5, seed=1)
    program = torch.export.load(path).module()
    for wrong in (3, -1):
        with pytest.raises(IndexError, match="index 3 is out of bounds"):
            program(given[0], torch.full((5,), wrong))
    expected = program(*given)
    torch.save((given, expected), tmp_path / "given.pt")
    command = [sys.executable, "-c", ALONE, str(path), str(tmp_path / "given.pt")]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (0, "decoder\n"), ran.stderr
    with zipfile.ZipFile(path) as files:
        inside = b"".join(files.read(name) for name in files.namelist())
    assert str(Path(__file__).parent.parent).encode() not in inside, "it says where it was made"


def test_what_does_not_compute_what_the_model_does_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = formats.FORMATS[".pt2"].write

    def off(*arguments: Any) -> formats.Written:
        data, run = write(*arguments)
        return data, lambda *given: run(*given) + 1e-3 * (len(given[0]) == BATCHES[-1])  # at one size alone

    path = tmp_path / "part.pt2"
    path.write_bytes(b"before")
    with monkeypatch.context() as patch:
        patch.setitem(formats.FORMATS, ".pt2", formats.FORMATS[".pt2"]._replace(write=off))
        with pytest.raises(ValueError, match=r"its image is off by 0\.001, allowed .*e-0\d; nothing was written$"):
            export(trained("vae"), path)
    assert [each.name for each in tmp_path.iterdir()] == ["part.pt2"]
    assert path.read_bytes() == b"before"
    with monkeypatch.context() as patch:  # a fold that is wrong is found in float64, where no rounding hides it
        fused = "fastgen.exporting.folding.conv_transpose2d_bn_fold_reference"
        patch.setattr(fused, lambda weight, bias, gamma, beta, *_: (weight, beta))
        with pytest.raises(ValueError, match=r"^model: expected a decoder that torch's own ops compute; in float64 "):
            export(trained("convolutional"), path)


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    path, pixels = tmp_path / "part.pt2", models.PixelCNN(1, 2, channels=2, layers=1)
    with pytest.raises(
        ValueError, match=r"^model: expected one with a generator, decoder, encoder or classifier, got Pi"
    ):
        export(pixels, path)
    with pytest.raises(TypeError, match=r"expected a model of fastgen\.models, got Linear"):
        export(nn.Linear(1, 1), path)
    with pytest.raises(ValueError, match="part: expected decoder or encoder, which VAE has, got classifier"):
        export(trained("vae"), path, "classifier")
    with pytest.raises(ValueError, match=r"part: expected one of 'generator', .* got 'judge'"):
        export(trained("vae"), path, "judge")
    for name in ("part", "part.pt", "part.ONNX.gz"):
        with pytest.raises(ValueError, match=r"^to: expected a name that ends in \.pt2 or \.onnx, got .*/part"):
            export(trained("vae"), tmp_path / name)
    broken = trained("vae")
    nn.init.constant_(broken.decoder.linear[0].weight, float("nan"))
    with pytest.raises(ValueError, match="model: expected finite numbers from its decoder, got inf or nan"):
        export(broken, path)
    by_batch = trained("convolutional")
    by_batch.decoder.convolutions[1][1] = nn.BatchNorm2d(6, track_running_stats=False)
    with pytest.raises(ValueError, match=r"expected batch norms with running statistics, got none in .*decoder\.con"):
        export(by_batch, path)
    assert list(tmp_path.iterdir()) == []


def test_what_need_not_be_computed_at_each_call() -> None:
    """Every kind that a batch norm is folded into, in float64; weights of weights; what cannot be folded stays."""
    torch.manual_seed(0)
    shared = nn.Conv2d(4, 4, 1)
    chain = ConvTranspose2dChain(
        ConvTranspose2dBatchNorm(4, 6, 3, 2, activation="leaky_relu", negative_slope=0.3),
        nn.ConvTranspose2d(6, 4, 3, groups=2), nn.BatchNorm2d(4, affine=False), nn.ReLU(), nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect", bias=False), nn.BatchNorm2d(4),
        nn.Sequential(nn.BatchNorm2d(4), shared), shared, nn.BatchNorm2d(4), spectral_norm(nn.Conv2d(4, 3, 1)),
        nn.Flatten(), nn.LazyLinear(5), nn.BatchNorm1d(5), nn.Tanh(),
    )  # fmt: skip
    x = torch.randn(3, 4, 5, 5)
    chain(x)
    settled(chain).double().eval()
    holder = nn.Sequential(chain)
    with torch.no_grad():
        expected = holder(x.double())
        plain(holder)
        assert {type(module).__module__.split(".")[0] for module in holder.modules()} == {"torch"}
        folded = fold(torch.export.export(holder, (x.double(),)))
        torch.testing.assert_close(folded.module(x.double()), expected)
    assert folded.batch_norms == 6
    called = [str(node.target).split(".")[1] for node in folded.module.graph.nodes if node.op == "call_function"]
    assert called == [
        "conv_transpose2d", "leaky_relu", "conv_transpose2d", "relu", "batch_norm", "pad", "conv2d", "conv2d", "conv2d",
        "conv2d", "flatten", "linear", "tanh",
    ]  # fmt: skip


def test_parts_of_models() -> None:
    assert {name: list(parts_of(make())) for name, make in MODELS.items()} == {
        "vae": ["decoder", "encoder"], "convolutional": ["decoder", "encoder"], "autoencoder": ["decoder", "encoder"],
        "gan": ["generator"], "dcgan": ["generator"], "resnet": ["generator"],
        "infogan": ["generator"], "adversarial": ["decoder", "encoder"], "roll": ["decoder", "encoder"],
        "classifier": ["classifier"],
    }  # fmt: skip
    part = parts_of(MODELS["vae"]())["encoder"]
    assert {name: str(each) for name, each in part.inputs.items()} == {
        "values": "(N, 1, 8, 8) uint8: integers in [0, 16]",
        "labels": "(N,) int64: in [0, 2]",
    }
    assert str(part.output[1]) == "(N, 3) float32: a code; its prior is normal"
    assert str(parts_of(MODELS["gan"]())["generator"].inputs["z"]) == (
        "(N, 3) float32: a code; its prior is uniform in (−1.7321, 1.7321), of variance 1"
    )
    told = "(N, 9) float32: a code, 3 of noise, one-hot of 4, 2 continuous; its prior is uniform in (−1, 1), of"
    told += " categories each as likely"
    assert str(parts_of(MODELS["infogan"]())["generator"].inputs["z"]) == told
    decoder, encoder = parts_of(MODELS["adversarial"]()).values()
    assert (list(decoder.inputs), list(encoder.inputs)) == (["z", "labels"], ["values"])
    assert str(decoder.inputs["z"]) == "(N, 3) float32: a code; its prior is normal, of standard deviation 5"
    assert [list(part.inputs) for part in parts_of(MODELS["roll"]()).values()] == [["z"], ["values"]]
    assert str(parts_of(MODELS["autoencoder"]())["encoder"].output[1]) == "(N, 3) float32: a code"
