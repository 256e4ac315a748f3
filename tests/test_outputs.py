"""What is written where: links stay links, devices and pipes are written to, a name never says another kind of file."""

import errno
import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from fastgen import _console, _files, pictures
from fastgen._files import check_can_write, write_atomic
from fastgen.commands import report_page
from fastgen.training import Recipe, Run
from trainers import CONFIG

PIXELS = np.zeros((2, 3, 3), dtype=np.uint8)


def test_a_link_stays_and_its_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there/picture.png", tmp_path / "picture.png"
    for before in (b"old", None):  # the second time it leads nowhere yet
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        target.unlink(missing_ok=True) if before is None else target.write_bytes(before)
        write_atomic(link, b"new")
        assert (link.is_symlink(), target.read_bytes()) == (True, b"new")
    assert sorted(path.name for path in tmp_path.rglob("*.png")) == ["picture.png", "picture.png"]
    assert not list(tmp_path.rglob(".*"))


def test_what_is_no_file_is_written_to(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full is Linux's")
    link = tmp_path / "x.png"
    link.symlink_to("/dev/full")
    for path in (Path("/dev/full"), link):
        with pytest.raises(OSError, match="No space left on device") as raised:
            write_atomic(path, b"x")
        assert raised.value.filename == str(path)
    assert link.is_symlink()
    assert Path("/dev/full").is_char_device()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomic(pipe, b"through")
    assert os.read(reader, 20) == b"through"
    os.close(reader)
    assert pipe.is_fifo()


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.ENOSPC, errno.EIO])
def test_folders_that_cannot_be_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """What the file system does not do is not missed; what failed is an error."""
    sync, calls = os.fsync, [0]

    def folder_fails(handle: int) -> None:
        calls[0] += 1
        if calls[0] == 2:
            raise OSError(code, os.strerror(code))
        sync(handle)

    monkeypatch.setattr(os, "fsync", folder_fails)
    if code in (errno.ENOSPC, errno.EIO):
        with pytest.raises(OSError, match=os.strerror(code)):
            write_atomic(tmp_path / "file", b"new")
    else:
        write_atomic(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert calls == [2]


@pytest.mark.parametrize("name", ["x.jpg", "x.npz", "x.PNG.gif"])
def test_a_name_of_another_kind_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"path: expected a name that ends in \.png, got .*{name}"):
        pictures.save(PIXELS, tmp_path / name)
    with pytest.raises(ValueError, match=r"out: expected a name that ends in \.html or \.htm, got"):
        check_can_write("out", tmp_path / name, (".html", ".htm"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x.png", "x.PNG", "x"])
def test_pictures_are_what_their_name_says(tmp_path: Path, name: str) -> None:
    check_can_write("out", tmp_path / name, (".png",))
    pictures.save(PIXELS, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_stdout_of_another_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    _console.prepare()
    sys.stdout.write("80 ± 0.5 nats, 3×3, σ, \udce9.png\n")
    assert raw.getvalue() == b"80 +- 0.5 nats, 3x3, ?, \xe9.png\n", "a line is there at once, and nothing is raised"
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    _console.prepare()  # what has no encoding is left as it is


def test_a_report_embeds_nothing_from_elsewhere(tmp_path: Path) -> None:
    run = Run(tmp_path / "run").create(CONFIG)
    run.samples.mkdir()
    pictures.save(PIXELS, run.samples / "epoch-0001.png")
    (run.samples / "epoch-0002.png").symlink_to(run.samples / "epoch-0001.png")
    assert report_page.write(run).count("data:image/png") == 2
    (tmp_path / "secret").write_bytes((run.samples / "epoch-0001.png").read_bytes())
    (run.samples / "epoch-0003.png").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=r"epoch-0003\.png: expected a picture in the folder of the run, got"):
        report_page.write(run)
    (run.samples / "epoch-0003.png").unlink()
    (run.samples / "epoch-0003.png").write_bytes(b"GIF89a")
    with pytest.raises(ValueError, match=r"epoch-0003\.png: expected a PNG, got another file of 6 bytes"):
        report_page.write(run)


def test_json_nested_too_deep(tmp_path: Path) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    (tmp_path / "config.json").write_text(deep)
    with pytest.raises(ValueError, match=r"config\.json: corrupted: "):
        Run(tmp_path).config()
    (tmp_path / "metrics.jsonl").write_text(deep + "\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 1: corrupted: "):
        Run(tmp_path).metrics()


NOT_NUMBERS = [("lr", "1e-3"), ("ema", "0.9"), ("clip", None), ("weight_decay", [0.1]), ("epochs", "3"), ("seed", 1.0)]
NOT_NUMBERS += [("betas", ("0.9", 0.5)), ("betas", 0.9), ("warmup", True), ("compile", "no"), ("optimizer", ["adam"])]


@pytest.mark.parametrize(("name", "value"), NOT_NUMBERS)
def test_recipes_name_what_is_no_number(name: str, value: object) -> None:
    with pytest.raises((ValueError, TypeError), match=rf"^{name}(\[0\])?: expected "):
        Recipe(**{name: value})
    assert Recipe(epochs=np.int64(3), lr=np.float64(0.5)) == Recipe(epochs=3, lr=0.5)


def test_the_errors_that_are_taken_for_no_answer() -> None:
    assert not {errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS} & _files.NOT_SUPPORTED
