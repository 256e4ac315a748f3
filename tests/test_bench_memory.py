"""benchmarks/memory.py: what it counts, and that the steps which it watches are those of the suite."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bench_models import tasks
from memory import main, most_at_once, peaks

pytest.importorskip("memray", reason="memray has no wheels for this system")


def test_what_others_take_of_the_system_counts_at_its_most() -> None:
    """What numpy takes is not torch's; 8 MiB are there twice, then once more."""

    def take() -> None:
        kept = np.ones(1 << 20), torch.ones(1 << 20, dtype=torch.float64)
        del kept
        np.ones(1 << 20)

    assert 16 <= most_at_once(take) / 2**20 < 17


def test_each_contender_of_a_step_is_measured_in_a_process_of_its_own() -> None:
    found = peaks(("fastgen", "eager"), 1, torch.float32, 1, True)
    assert set(found) == {"fastgen", "eager"}
    assert all(4 * 400 < most < 2**27 for most in found.values())


def test_it_runs_from_end_to_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path, seen = tmp_path / "memory.json", []
    monkeypatch.setattr("memory.peaks", lambda *given: seen.append(given) or {"fastgen": 1, "eager": 2})
    monkeypatch.setattr(sys, "argv", ["memory", "--quick", "--only", "VAE", "--dtype", "float32", "--json", str(path)])
    main()
    found = json.loads(path.read_text())
    names = [(task.name, list(task.shape)) for task in tasks("cpu", quick=True) if "VAE" in task.name]
    assert [(each["name"], each["shape"]) for each in found["steps"]] == names
    assert {each["peak_bytes"]["eager"] for each in found["steps"]} == {2}
    assert [tasks("cpu", quick=True)[given[1]].name for given in seen] == [name for name, _ in names]
    assert {"machine", "commit", "threads"} <= found["environment"].keys()


def test_a_step_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "argv", ["memory", "--only", "GPT"])
    with pytest.raises(SystemExit):
        main()
    assert "--only: expected a part of one of the names, got 'GPT'" in capsys.readouterr().err
