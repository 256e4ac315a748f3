"""The table of faults, which mutations.py makes: of every op, and in sources as they are."""

from pathlib import Path

import mutations
from fastgen.ops._registry import OPS
from faults import FAULTS, TESTS


def test_every_op_has_faults_and_tests_of_its_own() -> None:
    stems = {
        path.stem for path in (mutations.ROOT / "fastgen/ops").glob("[!_]*.py") if not path.stem.endswith("_triton")
    }
    assert set(FAULTS) == set(TESTS) == stems - {"sample", "sample_cuda"}
    for op, files in FAULTS.items():
        assert sum(map(len, files.values())) >= 4
        assert any(fault.op == op and fault.native for fault in mutations.faults()) == any(
            sources.get("CPU") == f"csrc/{op}_cpu.cpp" for sources in OPS.values()
        )
        assert all((Path(__file__).parent / file).exists() for file in TESTS[op])


def test_what_a_fault_replaces_is_there_exactly_once() -> None:
    assert mutations.misplaced() == []
    names = [fault.name for fault in mutations.faults()]
    assert len(set(names)) == len(names)


def test_what_is_misplaced_is_told(tmp_path: Path) -> None:
    for fault in mutations.faults():
        path = tmp_path / fault.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((mutations.ROOT / fault.file).read_text())
    path = tmp_path / "fastgen/ops/gated_activation.py"
    path.write_text(path.read_text().replace("return torch.tanh(a)", "y = torch.tanh(a)"))
    (told,) = mutations.misplaced(tmp_path)
    assert told.startswith(
        "gated_activation: a sum for the product (fastgen/ops/gated_activation.py): 'return torch.tanh"
    )
    assert told.endswith("is there 0 times, expected once")
