"""What the README's tables are made of, where results come from, and the script for a machine with a GPU."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import environment
import report

ROOT = Path(__file__).parent.parent
KERNELS = {"scale": "csrc/scale_cuda.cu", "scale_backward": "csrc/scale_cuda.cu", "draw": "fastgen/ops/draw_triton.py"}


def measured(device: str = "cpu", machine: str = "Box, 2 cores", **case: Any) -> dict[str, Any]:
    """A report of one case."""
    one = {
        "case": "scale, forward", "shape": [2, 3], "dtype": "float32", "headline": True, "kernels": {},
        "microseconds": {"fastgen": 20.0, "eager": 10.0}, "quartiles": {"fastgen": [19.0, 21.0], "eager": [9.0, 11.0]},
        "best_alternative": "eager", "ratio": 0.5, "bound": "memory", "gb_per_s": 3.0, "share_of_ceiling": 0.25,
        "floor_microseconds": 5.0, "peak_bytes": None, "refused": {"torch.compile": "RuntimeError: no compiler"},
    }  # fmt: skip
    env = {"date": "2026-01-01", "device": device, "machine": machine, "threads": 2, "torch": "2.13.0", "commit": "abc"}
    env |= {"driver": "580", "float32_convolutions": "tf32"} if device == "cuda" else {}
    return {"benchmark": "kernels", "quick": False, "environment": env, "cases": [one | case]}


def test_every_machine_has_its_table() -> None:
    gpu = measured("cuda", "NVIDIA X", case="draw, forward")
    text = report.readme([gpu, measured()], KERNELS)
    cpu_table, gpu_table = text.split("**NVIDIA X**")
    assert cpu_table.startswith("**Box, 2 cores**")
    assert "| scale, forward | 2×3 | 20 µs | 10 µs (eager) | 0.5× | 0.5× (1 case) |" in cpu_table, "losses are shown"
    assert "- kernels: 2 threads, float32, torch 2.13.0, commit abc, 2026-01-01" in cpu_table
    assert "| draw, forward |" in gpu_table
    assert "driver 580, float32 convolutions in tf32" in gpu_table
    assert "draw" not in cpu_table


def test_processors_of_another_kind_have_a_table_of_their_own() -> None:
    """Numbers with AVX-512 are not those without, on a processor of the same name."""
    text = report.readme([measured(machine="Box, 2 cores, AVX512"), measured(machine="Box, 2 cores, AVX2")], KERNELS)
    assert text.index("**Box, 2 cores, AVX2**") < text.index("**Box, 2 cores, AVX512**")
    assert "commit |" not in text, "each table is of one commit"


def test_rows_of_several_commits_name_their_own() -> None:
    old, new = measured(case="draw, forward"), measured()
    old["environment"] = {**old["environment"], "commit": "old1234"}
    rows = report.readme([old, new], KERNELS).splitlines()
    assert next(line for line in rows if "| draw" in line).endswith("| old1234 |")
    assert next(line for line in rows if "| scale" in line).endswith("| abc |")
    assert "commit |" in next(line for line in rows if line.startswith("| what"))
    report.check_once({"old.json": old, "new.json": new})
    again = {**old, "cases": new["cases"]}
    with pytest.raises(
        report.RefusedError, match=r"scale, forward of Box, 2 cores in both, of commits old1234 and abc"
    ):
        report.check_once({"old.json": again, "new.json": new})
    elsewhere = {**again, "environment": {**again["environment"], "machine": "Box, 2 cores, AVX2"}}
    report.check_once({"old.json": elsewhere, "new.json": new})


def test_one_line_for_an_op_is_its_median_headline_and_hides_no_loss() -> None:
    found = measured()
    (case,) = found["cases"]
    made = {"a": (3.0, True), "b": (0.25, False), "c": (1.5, True), "d": (0.75, True), "e": (9.0, True)}
    found["cases"] = [
        {**case, "case": f"scale{',' * (name > 'b')} {name}", "ratio": ratio, "headline": headline}
        for name, (ratio, headline) in made.items()
    ]
    (line,) = [line for line in report.readme([found], KERNELS).splitlines() if line.startswith("| scale")]
    assert line == "| scale, c | 2×3 | 20 µs | 10 µs (eager) | 1.5× | 0.25× to 9× (5 cases) |"
    alone = [{**case, "best_alternative": None, "ratio": None}]
    assert "| 20 µs | none |  | (1 case) |" in report.readme([{**found, "cases": alone}], KERNELS)


def test_only_headlines_are_in_the_readme_and_everything_is_beside_the_results() -> None:
    hidden = measured(headline=False, case="scale, forward + backward")
    assert "scale" not in report.readme([hidden], {})
    assert "Box" not in report.readme([hidden], {}), "a table without a row"
    assert ", float32, torch" in report.about(hidden)
    page = report.everything({"one.json": hidden})
    assert "**fastgen 20 µs [19 µs, 21 µs]**<br>eager 10 µs [9 µs, 11 µs]" in page
    assert "without torch.compile: RuntimeError: no compiler" in page


def test_kernels_without_evidence_from_a_gpu_are_named() -> None:
    ran = {"scale": KERNELS["scale"], "draw": "reference"}
    nothing = report.never_ran([measured(kernels=KERNELS)], KERNELS)
    assert nothing.splitlines()[2:] == ["- `csrc/scale_cuda.cu`", "- `fastgen/ops/draw_triton.py`"], "that was a CPU"
    partly = report.never_ran([measured("cuda", kernels=ran)], KERNELS)
    assert partly.splitlines()[2:] == ["- `csrc/scale_cuda.cu`: scale_backward", "- `fastgen/ops/draw_triton.py`"]
    assert "Never" not in report.never_ran([measured("cuda", kernels=KERNELS)], KERNELS)
    assert set(report.gpu_kernels()) >= {"gated_activation", "gated_activation_backward"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quick": True}, "expected a full run, got one with --quick"),
        ({"commit": "abc+changes"}, r"got abc\+changes: commit first"),
        ({"commit": "unknown"}, "report.py --resolve one.json"),
        ({"cases": []}, "expected cases, got none"),
    ],
)
def test_what_no_table_may_show(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    found = measured()
    (found["environment"] if "commit" in change else found).update(change)
    (tmp_path / "one.json").write_text(json.dumps(found))
    with pytest.raises(report.RefusedError, match=message):
        report.load(tmp_path / "one.json")


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_sources_without_git_are_found_in_the_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A digest of files on disk is that of the commit that holds them, and of no other."""
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    who = {f"GIT_{role}_{what}": "a@b.c" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    git = ["git", "-C", str(tmp_path), "-c", "core.autocrlf=false"]
    (tmp_path / "fastgen").mkdir()
    digests = []
    for version in ("one", "two"):
        (tmp_path / "fastgen/ops.py").write_text(version)
        (tmp_path / "README.md").write_text(version)
        digests.append(environment.digest(environment._files(tmp_path)))
        for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", version]):
            subprocess.run([*git, *command], check=True, env={**os.environ, **who})
    heads = subprocess.run([*git, "log", "--format=%h"], check=True, capture_output=True, text=True).stdout.split()
    assert [environment.find_commit(each) for each in digests] == heads[::-1]
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"environment": {"commit": "unknown", "sources": digests[0]}}))
    assert report.resolve(path) == heads[1]
    assert json.loads(path.read_text())["environment"]["commit"] == heads[1]
    path.write_text(json.dumps({"environment": {"commit": "unknown", "sources": "none"}}))
    with pytest.raises(report.RefusedError, match="no commit here has the sources"):
        report.resolve(path)


def gpu_script(*arguments: object, python: object = sys.executable) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(ROOT / "benchmarks/gpu.sh"), *map(str, arguments)]
    env = {**os.environ, "PYTHON": str(python), "PYTEST_ADDOPTS": ""}
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


def test_gpu_script_says_why_it_cannot_start(tmp_path: Path) -> None:
    assert (done := gpu_script()).returncode == 2
    assert "expected one folder for the results, got 0 arguments" in done.stderr
    assert "--cpu DIR" in gpu_script("--help").stdout
    if not torch.cuda.is_available():
        assert (done := gpu_script(tmp_path)).returncode == 2
        assert "torch finds no CUDA device on this machine; --cpu rehearses without one" in done.stderr


def statuses(folder: Path) -> dict[str, str]:
    stages = json.loads((folder / "summary.json").read_text())["stages"]
    return {stage["stage"]: stage["status"] for stage in stages}


PRETENDED = """#!/bin/sh
case "$*" in
  *get_device_name*) echo 'Pretended GPU' ;;
  *get_device_capability*) echo 90a ;;
  *info* | *import*) ;;
  *) echo "python $*"; exit 3 ;;
esac
"""


def test_gpu_script_goes_on_after_stages_that_fail(tmp_path: Path) -> None:
    """With a Python that says it has a GPU, and can do nothing; and a cmake that cannot either."""
    for name, text in (("python", PRETENDED), ("cmake", "#!/bin/sh\nexit 4\n"), ("nvcc", "#!/bin/sh\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    results = tmp_path / "results"
    assert (done := gpu_script(results, python=tmp_path / "python")).returncode == 1, done.stderr
    found = statuses(results)
    assert found.pop("info") == "passed"
    assert {found.pop(name) for name in ("memcheck", "racecheck")} <= {"failed", "skipped"}
    assert found.pop("roofline") == "skipped", "there is nothing to draw"
    assert set(found) == {"build", "tests", "kernels", "sampling", "models", "pixel_rnn"}
    assert set(found.values()) == {"failed"}
    summary = json.loads((results / "summary.json").read_text())
    assert (summary["machine"], summary["rehearsal"]) == ("Pretended GPU", False)
    assert [stage["rc"] for stage in summary["stages"] if stage["stage"] in ("build", "kernels")] == [4, 3]
    assert sum(stage["limit"] for stage in summary["stages"] if stage["stage"] == "kernels") < 480
    log = (results / "stages.log").read_text()
    assert "python -m pytest -q -m gpu -n 4" in log
    assert "python -m fastgen bench --suite kernels --device cuda" in log


@pytest.mark.slow
def test_gpu_script_rehearsed_without_one(tmp_path: Path) -> None:
    kernels = sorted((ROOT / "fastgen").glob("*.so"))
    before = [path.stat().st_mtime_ns for path in kernels]
    done = gpu_script("--cpu", tmp_path)
    log = (tmp_path / "stages.log").read_text()
    assert done.returncode == 0, log[-6000:]
    assert json.loads((tmp_path / "summary.json").read_text())["rehearsal"] is True
    stages = statuses(tmp_path)
    skipped = {name for name, status in stages.items() if status == "skipped"}
    assert list(stages) == [
        "build", "info", "memcheck", "racecheck", "tests", "kernels", "roofline", "sampling", "models", "pixel_rnn",
    ]  # fmt: skip
    assert {"memcheck", "racecheck"} <= skipped <= {"memcheck", "racecheck", "roofline"}
    for suite in ("kernels", "sampling", "models", "pixel_rnn"):
        found = json.loads((tmp_path / f"{suite}.json").read_text())
        assert found["cases"]
        assert found["failed"] == []
    assert (tmp_path / "tests.xml").exists()
    assert [path.stat().st_mtime_ns for path in kernels] == before, "the package's own kernels are left alone"
