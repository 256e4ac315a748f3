"""The benchmark harness: what it computes from times, what it refuses, and what it writes. No test looks at a speed."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import suite
from cases import BACKWARD, FORWARD, Case, Contest, Form, gradients
from fastgen.cli import main
from fastgen.commands.bench import find_suite
from fastgen.ops import gated_activation
from fastgen.ops.gated_activation import gated_activation_reference
from harness import Contests, parts, run
from measure import Bench, peak_bytes, peak_of
from tables import terminal

ROOT = Path(__file__).parent.parent


def gate_case(ours: Callable[..., Any] = gated_activation, **forms: Form) -> Case:
    forms = {"fastgen": Form(ours), "eager": Form(gated_activation_reference), **forms}
    return Case("gated_activation", (2, 6, 4), lambda: [torch.randn(2, 6, 4)], forms, (36, 96), (36, 156))


def test_a_case_measures_results_and_gradients() -> None:
    forward, backward = gate_case().contests("cpu", torch.float32)
    assert (forward.way, backward.way) == (FORWARD, BACKWARD)
    assert (forward.nbytes, backward.nbytes, forward.flops, backward.flops) == (144, 384, 36, 156)
    assert (forward.headline, backward.headline) == (False, True)
    results = forward.contenders["fastgen"]()()
    assert not results.requires_grad
    (grad,) = backward.contenders["eager"]()()
    (other,) = backward.contenders["fastgen"]()()
    assert grad.shape == (2, 6, 4)
    torch.testing.assert_close(grad, other)


def test_only_leaves_get_gradients_and_memory_formats_are_settled_before() -> None:
    seen = []

    def scale(x: Tensor, w: Tensor, constant: Tensor) -> Tensor:
        seen.append(x.is_contiguous(memory_format=torch.channels_last))
        return x * w + constant

    forms = {"fastgen": Form(scale, channels_last=True), "eager": Form(scale)}
    shapes = [(2, 3, 4, 4), (2, 3, 4, 4), (2, 3, 4, 4)]
    case = Case("scale", shapes[0], lambda: [torch.randn(s) for s in shapes], forms, (1, 1), (1, 1), leaves=(0, 1))
    _, backward = case.contests("cpu", torch.float32)
    backward.gate()
    call = backward.contenders["fastgen"]()
    seen.clear()
    assert len(call()) == 2
    assert seen == [True]


def wrong(x: Tensor) -> Tensor:
    return gated_activation_reference(x) * 1.001


class WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return gated_activation_reference(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        leaf = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            (exact,) = gradients([gated_activation_reference(leaf)], [leaf], [grad])
        return exact * 1.001


@pytest.mark.parametrize(("ours", "way"), [(wrong, FORWARD), (WrongGradient.apply, BACKWARD)])
def test_a_wrong_result_or_gradient_is_never_timed(ours: Callable[[Tensor], Tensor], way: str) -> None:
    bench = Bench(quick=True)
    for contest in gate_case(ours).contests("cpu", torch.float32):
        if contest.way == way:
            with pytest.raises(AssertionError, match="allowed"):
                bench.measure(contest)


def test_a_wrong_or_broken_alternative_takes_no_part_and_is_named() -> None:
    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("no such thing\nhere")

    case = gate_case(wrong=Form(wrong), broken=Form(broken))
    result = Bench(quick=True).measure(next(iter(case.contests("cpu", torch.float32))))
    assert list(result["microseconds"]) == ["fastgen", "eager"]
    assert result["refused"]["broken"] == "RuntimeError: no such thing"
    assert result["refused"]["wrong"].startswith("AssertionError: error")
    assert result["kernels"] == {"gated_activation": "csrc/gated_activation_cpu.cpp"}
    assert result["peak_bytes"]["fastgen"] == 96  # its result
    assert result["peak_bytes"]["eager"] == 3 * 96  # beside it, both halves' functions


def test_a_peak_is_not_lowered_by_what_an_earlier_profile_saw() -> None:
    """Which knows the size of what it saw allocated, and tells of it when it is freed: a step frees its gradients."""
    kept: list[Tensor] = []

    def keeps(count: int) -> None:
        kept.clear()
        kept.append(torch.empty(count))

    assert peak_bytes(lambda: keeps(1 << 18), "cpu") == 1 << 20
    assert peak_bytes(lambda: keeps(1 << 16), "cpu") == 1 << 18
    assert peak_of([(0, 1, 64, 100), (1, 2, 64, -100), (2, 3, 64, 50), (3, 4, 128, 70), (4, 5, 192, -900)]) == 120


def test_contenders_that_draw_noise_are_held_to_a_pair_that_does_not() -> None:
    def noisy(x: Tensor) -> Tensor:
        return x + torch.randn_like(x)

    def case(plain: Callable[[Tensor], Tensor]) -> Contest:
        forms = {"fastgen": Form(noisy), "eager": Form(noisy)}
        pair = (gated_activation, plain)
        made = Case("noise", (2, 4), lambda: [torch.randn(2, 4)], forms, (1, 1), (1, 1), parity=pair)
        (contest,) = (each for each in made.contests("cpu", torch.float32) if each.way == BACKWARD)
        return contest

    assert Bench(quick=True).measure(case(gated_activation_reference))["refused"] == {}
    with pytest.raises(AssertionError):
        Bench(quick=True).measure(case(lambda x: 2 * gated_activation_reference(x)))


def test_missing_kernels_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = {"gated_activation": {"CPU": "reference: _core.so was not built"}}
    monkeypatch.setattr("fastgen.commands.info.kernels", lambda: reason)
    with pytest.raises(RuntimeError, match="expected a kernel for cpu, which this build lacks"):
        Bench(quick=True).measure(next(iter(gate_case().contests("cpu", torch.float32))))


class Recording:
    """An entry whose result says what the file held when it was measured."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, path

    def results(self, bench: Bench) -> Iterator[dict[str, Any]]:
        cases = json.loads(self.path.read_text())["cases"]
        yield {"case": self.name, "shape": [1], "dtype": "float32", "microseconds": {"fastgen": 1}, "refused": {},
               "before": len(cases), "best_alternative": None, "ratio": None}  # fmt: skip


def test_results_are_written_after_every_case_and_failures_stop_nothing(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    broken = Contests("broken", lambda bench: gate_case(wrong).contests("cpu", torch.float32))
    entries = [Recording("one", path), broken, Recording("two", path)]
    report = run("test", entries, Bench(quick=True), path)
    assert json.loads(path.read_text()) == report
    assert [case["before"] for case in report["cases"]] == [0, 1]
    assert [each["case"] for each in report["failed"]] == ["broken"]
    assert set(report) == {"benchmark", "quick", "environment", "ceilings", "cases", "failed", "left_out"}
    assert {"date", "device", "machine", "threads", "commit", "sources", "torch"} <= set(report["environment"])
    text = terminal(report)
    assert "FAILED broken: AssertionError" in text
    assert "these numbers mean nothing" in text


def test_what_begins_too_late_is_left_out(tmp_path: Path) -> None:
    report = run("test", [Recording("late", tmp_path)], Bench(quick=True), None, budget=-1)
    assert (report["cases"], report["left_out"]) == ([], ["late"])


def test_the_first_of_each_table_come_first() -> None:
    bench = Bench(dtypes=(torch.bfloat16, torch.float32))
    other = Recording("other", Path())
    one, two, three = (gate_case() for _ in range(3))
    names = [entry.name.split(", ")[-1] for entry in parts([[one, two], [other], [three]], bench)]
    assert names == ["bfloat16"] * 3 + ["other"] + ["float32"] * 3


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("stem", suite.stems("kernels"))
def test_tables_of_cases_are_whole(stem: str, device: str) -> None:
    """Every op's table, for both devices: names, forms, counts."""
    (table,) = [table for table in suite.chosen("kernels", device, quick=False, only=stem) if table]
    assert all(entry.name.startswith(stem) for entry in table)
    cases = [entry for entry in table if isinstance(entry, Case)]  # beside them, makers of contests of whole models
    assert cases
    labels = [(case.name, case.shape) for case in cases]
    assert len(set(labels)) == len(labels)
    for case in cases:
        assert next(iter(case.forms)) == "fastgen"
        assert "eager" in case.forms
        assert any(form.compile is not None for form in case.forms.values())
        assert len(case.moved) == len(case.flops) == len(case.ways)
        assert [0, *case.moved] == sorted({0, *case.moved}), "backward moves more than forward"
        assert [0, *case.flops] == sorted({0, *case.flops})


def refused(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    assert main(["bench", "--quick", *map(str, arguments)]) == 2
    return capsys.readouterr().err


def test_what_bench_refuses(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    assert "only: expected a part of one of the names batch_norm_activation;" in refused(capsys, "--only", "nothing")
    assert "json: expected a file in a folder that exists" in refused(capsys, "--json", tmp_path / "no/f.json")
    assert "plot: expected a suite with floors" in refused(capsys, "--suite", "sampling", "--plot", tmp_path / "f.png")
    assert "threads: expected 1 or more, got 0" in refused(capsys, "--threads", 0)
    if not torch.cuda.is_available():
        assert "device: expected cpu, since torch finds no CUDA device" in refused(capsys, "--device", "cuda")
    with pytest.raises(ValueError, match=f"expected a checkout around the package or .* found none in {tmp_path}"):
        find_suite([tmp_path])
    assert find_suite([tmp_path, ROOT]) == ROOT / "benchmarks"


def test_bench_from_end_to_end(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    assert main(["bench", "--quick", "--only", "gated_activation", "--json", str(path)]) == 0
    table = capsys.readouterr().out
    report = json.loads(path.read_text())
    assert (report["benchmark"], report["quick"], report["failed"]) == ("kernels", True, [])
    assert [case["way"] for case in report["cases"]] == [FORWARD, BACKWARD]
    for case in report["cases"]:
        assert case["case"] in table
        assert {"floor_microseconds", "bound", "share_of_ceiling", "ratio", "quartiles"} <= set(case)
    pytest.importorskip("matplotlib", reason="matplotlib comes with fastgen[bench]")
    command = [sys.executable, str(ROOT / "benchmarks/roofline.py"), str(path), str(tmp_path / "f.png")]
    subprocess.run(command, check=True)
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
