"""``import fastgen`` is enough: every public module and function is there when it is first used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fastgen

CODE = """
import fastgen
print(*(f"{name}={type(getattr(fastgen, name)).__name__}" for name in fastgen.__all__))
print(fastgen.sampling.compile.__module__, fastgen.models.VAE.__module__, fastgen.load.__module__)
import fastgen.commands, sys
print(*(name for name in ("torch._dynamo", "torch._inductor", "matplotlib", "scipy", "onnx") if name in sys.modules))
"""


def test_all_that_is_public_comes_with_one_import() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    kinds, places, slow = done.stdout.splitlines()
    functions = {"fuse", "keep_freed_memory", "load", "unfuse"}
    expected = {name: "function" if name in functions else "module" for name in fastgen.__all__}
    assert dict(pair.split("=") for pair in kinds.split()) == expected | {"__version__": "str"}
    assert places == "fastgen.sampling fastgen.models.vae fastgen.training.run"
    assert not slow, "what takes seconds to import is imported where it is used"


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(AttributeError, match="module 'fastgen' has no attribute 'sample'"):
        _ = fastgen.sample
    assert set(fastgen.__all__) <= set(dir(fastgen))
    assert fastgen.load is fastgen.training.load_model


def test_no_code_has_a_double_negation() -> None:
    """Torch's compiler fails at what Python 3.13 makes of it, in whatever function it is."""

    def is_negation(node: ast.AST) -> bool:
        return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)

    sources = sorted(Path(fastgen.__file__).parent.rglob("*.py"))
    found = [
        f"{source.name}:{node.lineno}"
        for source in sources
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, ast.UnaryOp) and is_negation(node) and is_negation(node.operand)
    ]
    assert len(sources) > 100
    assert not found
