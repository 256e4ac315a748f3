"""One process writes a run's folder, notices when it is gone, and stops when it is asked to."""

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import tiny
from fastgen.cli import main
from fastgen.training import Run, Trainer
from fastgen.training import lock as locks
from fastgen.training.stopping import Stopped, on_signals
from trainers import RECIPE, assert_same, lines, new_run, trainer

for package in ("tyro", "tqdm", "safetensors", "sklearn"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")
pytest.importorskip("fcntl", reason="locks are POSIX")

HERE = Path(__file__).parent
TRAIN = ["train", "vae", "--latent", "2", "--hidden", "8", "--limit", "64", "--samples", "4"]


@contextmanager
def held(folder: Path) -> Iterator[int]:
    """Another process holds the lock of ``folder`` meanwhile."""
    script = "import sys, pathlib; from fastgen.training.lock import Lock; lock = Lock(pathlib.Path(sys.argv[1]))"
    script += "; print('ready', flush=True); sys.stdin.read()"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout.readline() == b"ready\n"
        yield child.pid
        child.kill()  # without a chance to clean up


def test_a_second_process_is_told_who_holds_the_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = tmp_path / "run"
    command = [*TRAIN, "--run", str(run), "--epochs", "1"]
    with held(run) as pid:
        assert main(command) == 2
        said = capsys.readouterr().err
        assert f"{run}: expected a run that no other process writes; process {pid} on " in said
        assert " since 2" in said
        with pytest.raises(locks.LockedError):
            trainer(Run(run)).fit(tiny.images(), tiny.images())
        assert [path.name for path in run.iterdir()] == [".lock"], "something was written all the same"
    assert main(command) == 0, "a dead process holds nothing"
    assert not (run / ".lock").exists()
    with held(run) as pid:
        assert main([*TRAIN, "--run", str(run), "--epochs", "2", "--resume"]) == 2
        assert f"process {pid} on " in capsys.readouterr().err
    assert len(lines(Run(run))) == 1


def test_a_lock_is_its_holders_until_it_is_released(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with run.lock(), run.lock():
        with pytest.raises(locks.LockedError, match=f"process {os.getpid()} on"), Run(tmp_path).lock():
            pass
        run.check_there()
    with Run(tmp_path).lock():
        pass
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with Run(tmp_path).lock():
        assert f"{tmp_path}: its file system has no locks" in capsys.readouterr().err
    monkeypatch.setattr(locks, "fcntl", None)
    with Run(tmp_path).lock():
        assert f"{tmp_path}: its file system has no locks" in capsys.readouterr().err


@pytest.mark.parametrize("moved", [True, False])
def test_a_folder_that_goes_away_is_noticed(
    tmp_path: Path, moved: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run, step = tmp_path / "run", Trainer._step

    def going(self: Trainer, *arguments: object) -> None:
        if self.position.step == 3:
            run.rename(tmp_path / "elsewhere")
            if not moved:
                run.mkdir()  # another one, of the same name
        step(self, *arguments)

    monkeypatch.setattr(Trainer, "_step", going)
    assert main([*TRAIN, "--run", str(run), "--batch-size", "16", "--epochs", "2"]) == 2
    said = capsys.readouterr()
    assert f"{run}: the folder, or the .lock in it, was deleted, moved or replaced in training" in said.err
    assert "fastgen sample" not in said.out
    assert not moved or not run.exists()
    assert not (run / "checkpoints").exists()


@pytest.mark.parametrize("left", [[], [".lock"], [".config.json.17.tmp"], [".lock", ".config.json.17.tmp"]])
def test_killed_before_its_config_was_written_a_run_begins_again(tmp_path: Path, left: list[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in left:
        (run / name).write_text("{")
    assert main([*TRAIN, "--run", str(run), "--epochs", "0"]) == 0
    assert sorted(path.name for path in run.iterdir()) == ["config.json", "held_out.png"]


def test_someone_elses_folder_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "notes.tmp").write_text("mine")
    with pytest.raises(FileExistsError, match=f"{tmp_path}: expected a new or empty folder"):
        Run(tmp_path).create({})


@pytest.mark.parametrize("stop", [1, 3, 4, 6])
def test_asked_to_stop_it_keeps_the_epoch_under_way(tmp_path: Path, stop: int) -> None:
    """In the middle of an epoch of four steps or at its end; without ``save_every``."""
    data, recipe = tiny.images(), dataclasses.replace(RECIPE, save_every=0, epochs=3)
    unbroken = trainer(new_run(tmp_path / "unbroken"), recipe)
    unbroken.fit(data, data)
    run = new_run(tmp_path / "stopped")
    stopped = trainer(run, recipe)
    gradient = stopped.players[0].gradient

    def asked(*arguments: object) -> object:
        if stopped.position.step == stop - 1:
            stopped.ask_to_stop(signal.SIGTERM)
        return gradient(*arguments)

    stopped.players[0].gradient = asked
    with pytest.raises(Stopped) as raised:
        stopped.fit(data, data)
    assert raised.value.number == signal.SIGTERM
    assert stopped.position.step == stop
    resumed = trainer(run, recipe)
    resumed.resume()
    assert resumed.position.step == stop, "steps were lost"
    resumed.fit(data, data)
    assert_same(resumed, unbroken)
    assert lines(run) == lines(unbroken.run)


def test_signals(capfd: pytest.CaptureFixture) -> None:
    asked: list[int] = []
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with on_signals(asked.append):
        signal.raise_signal(signal.SIGTERM)
        assert asked == [signal.SIGTERM]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert "SIGTERM: saving after this step" in capfd.readouterr().err
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with on_signals(asked.append):
            signal.raise_signal(signal.SIGTERM)  # as under nohup: what is ignored stays ignored
        assert asked == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before[1])
    other = threading.Thread(target=lambda: on_signals(asked.append).__enter__())
    other.start()
    other.join()
    assert signal.getsignal(signal.SIGTERM) == before[1]


def test_sigterm_in_a_log_file(tmp_path: Path) -> None:
    """A line is in the file when it is printed, in ASCII too; SIGTERM saves, and says how to go on."""
    run, log = tmp_path / "run", tmp_path / "log"
    command = [sys.executable, "-m", "fastgen", *TRAIN, "--run", str(run), "--epochs", "100000"]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), *sys.path]), "PYTHONIOENCODING": "ascii",
    }  # fmt: skip
    with open(log, "wb") as file, subprocess.Popen(command, env=environment, stdout=file, stderr=file) as child:
        while b" 2/100000" not in log.read_bytes():
            assert child.poll() is None, log.read_text()
            threading.Event().wait(0.02)
        child.send_signal(signal.SIGTERM)
        assert child.wait() == 128 + signal.SIGTERM
    said = log.read_text(encoding="ascii")
    assert " +- " in said
    assert "Traceback" not in said
    assert f"{run} holds epoch " in said
    assert f"continue with: fastgen train vae --run {run} --resume" in said
    again = Run(run)
    assert again.has_checkpoint
    assert len(lines(again)) >= 2
    assert not (run / ".lock").exists()


def test_killed_at_some_of_all_points(tmp_path: Path) -> None:
    """``kill_everywhere.py`` tries all of them."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), *sys.path]), "TMPDIR": str(tmp_path),
    }  # fmt: skip
    command = [sys.executable, str(HERE / "kill_everywhere.py"), "--first", "5", "--every", "21"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("7 of ")
    assert done.stdout.endswith(" points, 0 failures\n")
