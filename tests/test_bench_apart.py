"""benchmarks/apart.py: turns, ratios, and that the steps which it times are those of the suite."""

import json
import platform
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from apart import FORMS, WAYS, Step, compared, in_turn, main, measured
from bench_models import tasks


def test_one_answers_at_a_time_and_every_other_turn_goes_back() -> None:
    asked: list[int] = []

    def ask(i: int) -> tuple[float, float]:
        asked.append(i)
        return float(len(asked)), 0.0

    found = in_turn([lambda i=i: ask(i) for i in range(3)], 3)  # type: ignore[misc]
    assert asked == [2, 1, 0, 0, 1, 2, 2, 1, 0]
    assert [[seconds for seconds, _ in each] for each in found] == [[3, 4, 9], [2, 5, 8], [1, 6, 7]]


def test_ratios_are_of_turns_and_of_the_middle_process() -> None:
    """A slow turn of the machine is one for all, and leaves the ratio; microseconds are medians of medians."""
    found = compared(
        {
            "fastgen": [[(t * 1e-3, n) for t, n in ((k, 9 - k), (10 * k, 9), (k, 8 * (2 - k)))] for k in (1, 2, 3)],
            "eager": [[(t * 1e-3, 2.0) for t in each] for each in ([3, 30, 3], [5, 50, 5], [4, 40, 1])],
        }
    )
    assert found["fastgen"] == {"microseconds": 2000.0, "ratio": 1.0, "ratios": [0.5, 1.0, 1.5], "faults": [6, 7, 8]}
    assert found["eager"] == {"microseconds": 4000.0, "ratio": 2.0, "ratios": [1.5, 2.0, 2.5], "faults": [2, 2, 2]}


def test_contenders_run_in_processes_of_their_own() -> None:
    forms = ("fastgen", "eager")
    found = measured(forms, 2, 3, Step(1, torch.float32, 1, True, platform.libc_ver()[0] == "glibc"))
    assert set(found) == set(WAYS)
    for of_all in found.values():
        assert set(of_all) == set(forms)
        for seen in of_all.values():
            assert len(seen["ratios"]) == 2
            assert 0 < seen["microseconds"] < 1e6


def test_a_process_that_ends_is_told() -> None:
    with pytest.raises(RuntimeError, match="fastgen: expected an answer, but its process ended"):
        measured(("fastgen",), 1, 1, Step(10**6, torch.float32, 1, True))


def test_it_runs_from_end_to_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, seen = tmp_path / "apart.json", []

    def measure(*given: Any) -> dict[str, Any]:
        seen.append(given)
        return {way: compared({form: [[(1e-3, 5.0)]] for form in given[0]}) for way in WAYS}

    monkeypatch.setattr("apart.measured", measure)
    only = ["--quick", "--only", "VAE", "--dtype", "float32", "--forms", "eager", "--keep", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["apart", *only])
    main()
    found = json.loads(path.read_text())
    names = [(task.name, list(task.shape)) for task in tasks("cpu", quick=True) if "VAE" in task.name]
    assert [(each["name"], each["shape"]) for each in found["steps"]] == [name for name in names for _ in WAYS]
    assert {each["eager"]["ratio"] for each in found["steps"]} == {1.0}
    assert [tasks("cpu", quick=True)[step[0]].name for *_, step in seen] == [name for name, _ in names]
    assert {given[:3] for given in ((tuple(a), b, c) for a, b, c, _ in seen)} == {(("fastgen", "eager"), 5, 24)}
    assert {step.keep for *_, step in seen} == {each["kept"] for each in found["steps"]} == {True}
    assert {"machine", "commit", "threads"} <= found["environment"].keys()
    said = "VAE, 4 at a time, training step, float32, eager: 1000.0 us, 1.0 (1.0 to 1.0), faults [5]"
    assert said in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["apart", "--turns", "0"])
    with pytest.raises(SystemExit):
        main()
    assert "--turns: expected at least 1, got 0" in capsys.readouterr().err
    assert len({(plain, whole) for plain, _, whole in FORMS.values()}) == 4
