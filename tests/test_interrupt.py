"""Ctrl-C while fastgen is being imported, long before its ``main`` can see to it, and how the command line ends."""

import os
import re
import signal
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from fastgen import cli
from fastgen.training.stopping import Stopped

ROOT = Path(__file__).parent.parent

TORCH = "import signal\nsignal.raise_signal(signal.SIGINT)\n"
"""What stands for torch: Ctrl-C comes while it is being imported."""


def interrupted(folder: Path, *command: object, torch: str = TORCH) -> subprocess.CompletedProcess[str]:
    """Run a command that finds, instead of torch, what is given."""
    (folder / "stub").mkdir()
    (folder / "stub" / "torch.py").write_text(torch)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder / "stub"), str(ROOT), *sys.path])}
    given = [sys.executable, *map(str, command)]
    return subprocess.run(given, env=environment, cwd=folder, capture_output=True, text=True)


def entry() -> EntryPoint:
    """The console script as pyproject.toml names it."""
    found = re.search(r'(?m)^\[project\.scripts\]\nfastgen = "(.+)"$', (ROOT / "pyproject.toml").read_text())
    assert found is not None
    return EntryPoint("fastgen", found[1], "console_scripts")


def console_script(folder: Path, name: str = "fastgen") -> Path:
    """What an installer writes for it."""
    script = folder / name
    script.write_text(f"import sys\nfrom {entry().module} import {entry().attr}\nsys.exit({entry().attr}())\n")
    return script


@pytest.mark.parametrize("arguments", [("train", "vae"), ("info",), ("train", "--help")])
@pytest.mark.parametrize("way", ["script", "module", "unbuffered module"])
def test_ctrl_c_during_import_is_one_line(tmp_path: Path, way: str, arguments: tuple[str, ...]) -> None:
    start = {"script": [console_script(tmp_path)], "module": ["-m", "fastgen"]}.get(way, ["-u", "-m", "fastgen"])
    done = interrupted(tmp_path, *start, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGINT, "", "fastgen: interrupted\n")


@pytest.mark.parametrize("way", ["another script", "another module", "code"])
def test_other_programs_keep_their_traceback(tmp_path: Path, way: str) -> None:
    (tmp_path / "mine.py").write_text("import fastgen\n")
    start = {"another script": ["mine.py"], "another module": ["-m", "mine"]}.get(way, ["-c", "import fastgen"])
    done = interrupted(tmp_path, *start, "fastgen")
    assert done.returncode not in (0, 128 + signal.SIGINT)
    assert "Traceback" in done.stderr
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")


def test_other_errors_keep_their_traceback(tmp_path: Path) -> None:
    done = interrupted(tmp_path, "-m", "fastgen", "info", torch="raise ImportError('no such library')")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("ImportError: no such library\n")


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("--version",), ("evalute",)])
def test_what_needs_no_torch_does_not_wait_for_it(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = interrupted(tmp_path, console_script(tmp_path), *arguments, torch="raise ImportError('it takes seconds')")
    if arguments == ("evalute",):
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert done.stderr.endswith("got 'evalute'; did you mean evaluate?\n")
    else:
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("fastgen")


def test_both_ways_end_alike() -> None:
    """One of several processes is left, not taken down, however it was started: ``distributed.leave`` says why."""
    assert entry().load() is cli.command


@pytest.mark.parametrize(("rank", "said"), [(0, "fastgen: interrupted; go on so\n"), (1, "")])
def test_one_of_several_processes_says_how_to_continue(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, rank: int, said: str
) -> None:
    """All of them stop after the same step; one that is stopped by itself still says so."""
    stop: BaseException = Stopped(signal.SIGTERM)
    stop.args = ("go on so",)

    def stopped(command: str, arguments: list[str]) -> None:
        raise stop

    monkeypatch.setattr(cli, "_run", stopped)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", str(rank))
    assert cli.main(["train"]) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == said
    stop = KeyboardInterrupt()
    assert cli.main(["train"]) == 128 + signal.SIGINT
    assert capsys.readouterr().err == "fastgen: interrupted\n"
