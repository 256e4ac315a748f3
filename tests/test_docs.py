"""Every code block of the README and of the guides runs, its commands among them, at a small size.

What is shown and cannot be run is marked as text. test_readme.py looks at what the README's blocks come to.
"""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fastgen import cli
from fastgen.nn import MaskedConv2d
from test_data_docs import given

for package in ("tyro", "tqdm", "safetensors", "sklearn", "matplotlib", "PIL"):
    pytest.importorskip(package, reason="the command line comes with fastgen[train]")
pytest.importorskip("constriction", reason="it comes with fastgen[codec]")

ROOT = Path(__file__).parent.parent
PAGES = {page.name: page.read_text() for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}

SMALL = {
    "train": ["--epochs", "1", "--limit", "60", "--batch-size", "30", "--samples", "4"],
    "train pixelcnn": ["--channels", "4", "--layers", "1"],
    "train gated-pixelcnn": ["--channels", "4", "--layers", "1"],
    "train row-lstm": ["--channels", "4", "--layers", "1"],
    "train diagonal-bilstm": ["--channels", "4", "--layers", "1"],
    "train pixelcnn++": ["--channels", "4", "--blocks", "1", "--resolutions", "2"],
    "train pixelsnail": ["--channels", "4", "--blocks", "1", "--layers", "1", "--keys", "2", "--values", "3"],
    "train image-gpt": ["--channels", "8", "--layers", "1", "--heads", "2"],
    "train multi-scale": ["--channels", "4", "--layers", "1", "--map-layers", "1"],
    "train autoencoder": ["--hidden", "8", "--latent", "3"],
    "train vae": ["--hidden", "8", "--latent", "3"],
    "train adversarial-autoencoder": ["--hidden", "8", "--discriminator-hidden", "8"],
    "train vqvae": ["--channels", "4", "--codes", "6"],
    "train infogan": ["--channels", "4", "--hidden", "8"],
    "train classifier": ["--labels", "20"],
    "train gan": ["--hidden", "8", "--discriminator-hidden", "8", "--latent", "3"],
    "train dcgan": ["--channels", "4", "--latent", "3"],
    "train resnet-gan": ["--channels", "2", "--latent", "3"],
    "train began": ["--channels", "2", "--latent", "3"],
    "sample": ["--n", "2"],
    "evaluate": ["--limit", "20"],
    "compare": [],
    "explore": ["--n", "4", "--side", "3"],
    "taxonomy": ["--effort", "0.02"],
    "toy": ["--rounds", "2", "--seeds", "0"],
    "report": [],
    "download": [],
    "export": [],
    "encode": [],
    "compress": [],
    "decompress": [],
}
"""What is added to a command that a reader is shown; of an option that is given twice, the second counts."""

SMALL_NUMBERS = {"--importance-samples": "3", "--average-from": "0.5"}
"""Of the options that commands share, what they are here."""


SMALL_PYTHON = {
    "channels=128, layers=15": "channels=8, layers=2",
    "channels=160, blocks=5": "channels=4, blocks=1",
    "sample(64": "sample(2",
    "n=4": "n=1",
    "PCA(32": "PCA(4",
    "randn(64, 50)": "randn(2, 3)",
}


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, text) of each block of code."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", PAGES[page], flags=re.S | re.M)


def small(words: list[str]) -> list[str]:
    """The arguments of a command, of a size that takes a moment."""
    if "--resume" in words:  # with the options that the run began with
        return [*words, "--epochs", "2"]
    added = SMALL[words[0]] + SMALL.get(" ".join(words[:2]), [])
    for option, number in SMALL_NUMBERS.items():
        added = added + [option, number] * (option in words)
    if "--groups" in words:  # numbers of images of a grid that is as wide as it says
        return words
    return [*words, *added]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, and the named data sets' files: of the right format, few and random."""
    random = np.random.RandomState(0)
    for name in ("MNIST", "FashionMNIST"):
        folder = tmp_path / "data" / name / "raw"
        folder.mkdir(parents=True)
        for split, n in (("train", 120), ("t10k", 60)):
            shape = np.array([n, 8, 8], ">u4").tobytes()
            images = random.randint(0, 256, (n, 8, 8), np.uint8).tobytes()
            (folder / f"{split}-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + shape + images)
            labels = (np.arange(n, dtype=np.uint8) % 10).tobytes()
            (folder / f"{split}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + shape[:4] + labels)
    packed = {split: random.randint(0, 256, (60, 98), np.uint8) for split in ("train", "valid", "test")}
    (tmp_path / "data/binarized_mnist").mkdir()
    np.savez(tmp_path / "data/binarized_mnist/binarized_mnist_packed.npz", **packed)
    (tmp_path / "data/cifar-10-batches-bin").mkdir()
    for name in ("data_batch_1", "test_batch"):
        records = random.randint(0, 256, (60, 1 + 3 * 32 * 32), np.uint8)
        records[:, 0] %= 10
        (tmp_path / f"data/cifar-10-batches-bin/{name}.bin").write_bytes(records.tobytes())
    monkeypatch.setenv("FASTGEN_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("fastgen.commands.download.download", lambda name, root: [])  # test_download.py fetches
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def names(page: str) -> dict[str, Any]:
    """What a reader has before the first block of a page."""
    causal = nn.Sequential(MaskedConv2d(1, 4, 7, "A", activation="relu"), MaskedConv2d(4, 1, 1))
    layers = nn.Sequential(nn.ConvTranspose2d(16, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
    if page == "README.md":
        return {
            **{"your_model": causal, "mu": torch.randn(2, 5), "logvar": torch.randn(2, 5)},
            **{"x": torch.randn(2, 3, 8, 8), "images": torch.randint(2, (2, 1, 28, 28))},
            **{"labels": torch.tensor([3, 7]), "top_half": torch.arange(28)[:, None].expand(28, 28) < 14},
        }
    if page == "data.md":
        return given()
    there = {"fuse.md": {"model": layers}, "sampling.md": {"model": causal}}
    return (there | {"pixelcnnpp.md": {"images": torch.randint(256, (2, 3, 8, 8))}}).get(page, {})


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page: str) -> None:
    assert {language for language, _ in blocks(page)} <= {"python", "sh", "text"}
    assert PAGES[page].count("\n```") == 2 * len(blocks(page))


@pytest.mark.parametrize("page", [page for page in PAGES if {language for language, _ in blocks(page)} - {"text"}])
@pytest.mark.usefixtures("few_steps")
def test_blocks_run(
    page: str, files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The blocks of a page one after the other, in one folder: a later one may use what an earlier one made.

    The README's first two commands are not run here. The second is what .ci/run runs, and the demo that ends the first
    is run by test_demo.py.
    """
    from fastgen.commands import taxonomy

    monkeypatch.setattr(taxonomy, "POINTS", 400)
    monkeypatch.setattr(taxonomy, "IMPORTANCE_SAMPLES", 10)
    there = names(page)
    for language, text in blocks(page):
        if language == "python":
            for large, little in SMALL_PYTHON.items():
                text = text.replace(large, little)
            exec(compile(text, page, "exec"), there)
        for line in filter(str.strip, text.splitlines() * (language == "sh")):
            program, *words = shlex.split(line, comments=True)
            if (page, program) == ("README.md", "python3"):
                assert line.endswith((".venv/bin/fastgen demo", ".venv/bin/python -m pytest"))
                continue
            assert program == "fastgen"
            assert cli.main(small(words)) == 0, f"{line}\n{capsys.readouterr().err}"


def test_data_that_the_readme_names(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The defaults of ``train gated-pixelcnn`` fit them all; fewer layers, for the time."""
    (others,) = re.findall(r"^fastgen train gated-pixelcnn --data digits .*# or (.*)$", PAGES["README.md"], flags=re.M)
    np.save("own.npy", np.random.RandomState(0).randint(0, 256, (40, 12, 10, 3), np.uint8))
    for data in others.replace("PATH", "own.npy").split(", "):
        words = ["train", "gated-pixelcnn", "--data", data, "--dry-run", "--layers", "1", "--batch-size", "4"]
        assert cli.main(words) == 0, f"{data}: {capsys.readouterr().err}"


COMMAND = r"`(?:fastgen|python -m fastgen) ([^`]+)`"


@pytest.mark.parametrize(("page", "command"), [(page, c) for page in PAGES for c in re.findall(COMMAND, PAGES[page])])
def test_commands_in_the_text_exist(page: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With the options that the text gives them."""
    words = command.split()
    assert words[0] in cli.COMMANDS, page
    options = [word for word in words if word.startswith("--")]
    if options:
        with pytest.raises(SystemExit) as end:
            cli.main([*words[: 1 + (words[0] == "train" and len(words) > 2)], "--help"])
        assert end.value.code == 0
        assert set(options) <= set(re.findall(r"--[\w-]+", capsys.readouterr().out)), page
