"""The op path itself: files by stem, kernels where the table says, ceilings on length."""

import ast
import importlib
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad

import fastgen
from fastgen.commands import info
from fastgen.ops._registry import BELOW, NAMESPACE, OPS

ROOT = Path(__file__).parent.parent
STEM = {op: re.sub("_(cpu|cuda|triton)$", "", Path(next(iter(sources.values()))).stem) for op, sources in OPS.items()}
STEMS = sorted(set(STEM.values()))
SOURCES = {stem: {source for op in OPS if STEM[op] == stem for source in OPS[op].values()} for stem in STEMS}
CEILINGS = {
    "fastgen/ops/*.py": 250,
    "fastgen/ops/*_triton.py": 400,
    "fastgen/models/*.py": 300,
    "csrc/*": 400,
    "tests/test_*.py": 300,
}


@pytest.mark.parametrize("op", sorted(OPS))
def test_dispatcher_agrees_with_the_table(op: str) -> None:
    """What its table says is what torch's dispatcher would run, from the file it states, and no more.

    The table is ``KERNELS`` of the op's module, or a part of it.
    """
    module = importlib.import_module(f"fastgen.ops.{STEM[op]}")
    assert OPS[op].items() <= module.KERNELS.items()
    for name in (f"{NAMESPACE}::{op}", f"{BELOW}::{op}"):
        for key in {"CPU", "CUDA"} - OPS[op].keys():
            assert not torch._C._dispatch_has_kernel_for_dispatch_key(name, key)
        for key, source in OPS[op].items():
            assert (ROOT / source).exists()
            if source.endswith(".cu") and isinstance(info.build()["cuda"], str):
                continue  # this build has no CUDA kernels, and says why
            assert torch._C._dispatch_has_kernel_for_dispatch_key(name, key)
            if source.startswith("csrc/"):
                assert source in str(torch.library.get_kernel(name, key))
        if STEM[op] != "sample":  # its reference walks plans, above the ops
            assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeExplicitAutograd")


def test_compiled_programs_call_kernels_past_autograd_and_exported_ones_the_op() -> None:
    """With gradients, ``assert_compiles`` sees it of each op."""
    from functorch.compile import make_boxed_func  # these import the compiler, which takes seconds
    from torch._dynamo.backends.common import aot_autograd

    called: list[str] = []

    def look(graph: torch.fx.GraphModule, _: Any) -> Any:
        called.extend(namespaces(graph))
        return make_boxed_func(graph.forward)

    def namespaces(graph: torch.fx.GraphModule) -> set[str]:
        targets = [node.target for node in graph.graph.nodes]
        return {each.namespace for each in targets if isinstance(each, torch._ops.OpOverload)} - {"aten"}

    layer, x = fastgen.nn.GaussianRSample(), torch.randn(4, 6)
    with torch.no_grad():
        torch.compile(layer, fullgraph=True, backend=aot_autograd(fw_compiler=look))(x, x)
    assert called == [BELOW]
    program = torch.export.export(layer, (x, x))
    assert namespaces(program.graph_module) == namespaces(program.run_decompositions().graph_module) == {NAMESPACE}


def test_a_compiled_program_refuses_dual_numbers_instead_of_dropping_them() -> None:
    x = torch.randn(4, 6)
    compiled = torch.compile(lambda mean: fastgen.ops.rsample_kl(mean, mean, 7)[0])  # and keeps its program on disk
    with torch.no_grad():
        compiled(x)
        with forward_ad.dual_level(), pytest.raises(RuntimeError, match="forward-mode differentiation is not"):
            compiled(forward_ad.make_dual(x, torch.ones_like(x)))
        assert torch.equal(compiled(x), fastgen.ops.rsample_kl(x, x, 7)[0])


@pytest.mark.parametrize("stem", STEMS)
def test_an_op_is_one_stem(stem: str) -> None:
    native = [f"csrc/{stem}.h"] * any(source.startswith("csrc/") for source in SOURCES[stem])
    triton = [f"tests/test_{stem}_triton.py", f"tests/test_{stem}_aot.py"] * any(
        source.endswith("_triton.py") for source in SOURCES[stem]
    )
    for path in (*native, *triton, f"fastgen/ops/{stem}.py", f"tests/test_{stem}.py"):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("pattern", CEILINGS)
def test_files_can_be_read_in_one_sitting(pattern: str) -> None:
    paths = [path for path in ROOT.glob(pattern) if path.is_file()]
    if pattern == "fastgen/ops/*.py":  # kernels have their own ceiling
        paths = [path for path in paths if not path.stem.endswith("_triton")]
    lengths = {path.name: len(path.read_text().splitlines()) for path in paths}
    assert lengths
    assert {name: n for name, n in lengths.items() if n > CEILINGS[pattern]} == {}


def test_no_private_function_takes_more_than_eight_parameters() -> None:
    """Records do. Kernels and references list what their schema lists, public functions what torch's do."""
    public = {*fastgen.ops.__all__, *fastgen.nn.__all__, *dir(fastgen.ops.sample)}
    schemas = {f"{op}_{form}" for op in OPS for form in ("reference", "triton")}
    long = []
    for path in (*(ROOT / "fastgen/ops").glob("*.py"), *(ROOT / "fastgen/nn").glob("*.py")):
        tree = ast.parse(path.read_text())
        owners = {child: node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for child in node.body}
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.Lambda):
                continue
            names = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            name = getattr(node, "name", "lambda")
            kernel = any("triton.jit" in ast.unparse(each) for each in getattr(node, "decorator_list", []))
            private = {name, owners.get(node)}.isdisjoint(public | schemas)
            if len(names) - (node in owners) > 8 and private and not kernel:
                long.append(f"{path.name}: {name} takes {len(names)}")
    assert long == []


def test_kernels_are_loaded() -> None:
    assert "_core" not in fastgen._extension.MISSING


def test_without_kernels_everything_runs_and_says_so(tmp_path: Path) -> None:
    """A copy of the package without its compiled libraries: same API, a warning, an error where CI asks for one."""
    package = tmp_path / "fastgen"
    for source in (ROOT / "fastgen").rglob("*.py"):
        target = package / source.relative_to(ROOT / "fastgen")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source.read_text())
    code = (
        "import warnings; warnings.simplefilter('error'); import torch\n"
        "try:\n    import fastgen\nexcept (UserWarning, ImportError) as e:\n    print(type(e).__name__, e)\n"
    )
    draw = (
        "import fastgen, torch; z, kl = fastgen.ops.rsample_kl(torch.ones(2, 3), torch.ones(2, 3), 7); print(z.sum())"
    )

    def run(script: str, **environment: str) -> str:
        env = {"PYTHONPATH": str(tmp_path), "PATH": "", **environment}
        return subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
        ).stdout

    assert "UserWarning fastgen runs from its plain-torch reference, without compiled kernels: _core.so was not" in run(
        code
    )
    assert "ImportError fastgen runs from its" in run(code, FASTGEN_REQUIRE_KERNELS="1")
    with warnings.catch_warnings():
        z, _ = fastgen.ops.rsample_kl(torch.ones(2, 3), torch.ones(2, 3), 7)
    assert run(draw).strip() == str(z.sum())


def test_info_knows_which_gpus_the_build_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(info, "build", lambda: {"cuda": {"nvcc": "13.0", "archs": "80 90a 120+PTX"}})
    served = {(8, 0): True, (8, 9): True, (9, 0): True, (12, 0): True, (13, 0): True, (7, 5): False, (10, 0): False}
    assert {capability: info._built_for(*capability) for capability in served} == served
    monkeypatch.setattr(info, "build", lambda: {"cuda": "not built: FASTGEN_CUDA=0"})
    assert not info._built_for(9, 0)


def test_info_names_every_op_and_the_file_of_its_kernel() -> None:
    report = info.report()
    for op, sources in OPS.items():
        (line,) = [line for line in report.splitlines() if line.split(" ")[0] == op]
        assert all(source in line or re.search("(reference|none): ", line) for source in sources.values())
    assert torch.__version__ in report
