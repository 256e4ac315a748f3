"""Makes one-line faults in a copy of the sources and sees whether the op's own tests catch each.

    python tests/mutations.py [--only TEXT] [--list] [--work FOLDER]

The table is ``faults.py``. First the tests have to pass without a fault. Native faults recompile what they touch, in
one build folder, so they come last, file by file. It ends with 1 if a fault survives, if one breaks the import or the
build instead (that proves nothing), or if the text that it replaces is not there exactly once.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from faults import FAULTS, TESTS

ROOT = Path(__file__).parent.parent
COPIED = ("CMakeLists.txt", "pyproject.toml", "csrc", "fastgen", "tests", "benchmarks")
QUICK = "not parity and not opcheck and not compile"  # what most faults do not get past, in a few seconds
PASSED, FAILED = 0, 1  # of pytest; a crash of the process is negative, everything else says that no test ran


class Fault(NamedTuple):
    op: str
    file: str
    what: str
    old: str
    new: str

    @property
    def name(self) -> str:
        return f"{self.op}: {self.what} ({self.file})"

    @property
    def native(self) -> bool:
        return self.file.startswith("csrc/")

    @property
    def triton(self) -> bool:
        return self.file.endswith("_triton.py")


def faults() -> Iterator[Fault]:
    for op, files in FAULTS.items():
        for file, lines in files.items():
            yield from (Fault(op, file, *line) for line in lines)


def misplaced(root: Path = ROOT) -> list[str]:
    """Of every fault whose text is not in its source exactly once, a sentence."""
    found = [(fault, (root / fault.file).read_text().count(fault.old)) for fault in faults()]
    return [
        f"{fault.name}: {fault.old!r} is there {count} times, expected once" for fault, count in found if count != 1
    ]


def copy_sources(work: Path) -> None:
    """Only what differs is written: the build folder of an earlier run compiles what changed."""
    for top in COPIED:
        inside = sorted((ROOT / top).rglob("*")) if (ROOT / top).is_dir() else [ROOT / top]
        for source in inside:
            target = work / source.relative_to(ROOT)
            if source.is_dir() or "__pycache__" in source.parts or source.suffix == ".so":
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists() or target.read_bytes() != source.read_bytes():
                target.write_bytes(source.read_bytes())


def build(work: Path) -> subprocess.CompletedProcess[str]:
    """The kernels for the CPU, installed where the copy loads them; the configured folder is kept."""
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    python, options = f"-DPython3_EXECUTABLE={sys.executable}", ["-DCMAKE_BUILD_TYPE=Release", "-DFASTGEN_CUDA=0"]
    jobs = [f"-j{os.environ['MAX_JOBS']}"] if os.environ.get("MAX_JOBS") else []
    commands = [
        ["cmake", "-G", "Ninja", "-S", str(work), "-B", str(work / "build"), python, *options],
        ["cmake", "--build", str(work / "build"), *jobs],
        ["cmake", "--install", str(work / "build"), "--prefix", str(work / "fastgen")],
    ]
    for command in commands[1 if (work / "build/build.ninja").exists() else 0 :]:
        done = subprocess.run(command, env={**os.environ, "PATH": tools}, capture_output=True, text=True, check=False)
        if done.returncode:
            break
    return done


def run_tests(work: Path, op: str, only: str = "", triton: bool = False) -> subprocess.CompletedProcess[str]:
    """``triton``: those of the op's Triton kernels instead, interpreted."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", "-k", only]
    files = [str(work / "tests" / file) for file in ((f"test_{op}_triton.py",) if triton else TESTS[op])]
    environment = {**os.environ, "PYTHONPATH": str(work), "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_ADDOPTS": ""}
    if triton:
        environment["TRITON_INTERPRET"] = "1"
    return subprocess.run([*command, *files], cwd=work, env=environment, capture_output=True, text=True, check=False)


def outcome(work: Path, fault: Fault) -> tuple[str, str]:
    """Whether the fault is "caught", "survived" or "broken", and by which test, or the end of what was said."""
    path = work / fault.file
    sound = path.read_text()
    path.write_text(sound.replace(fault.old, fault.new))
    try:
        if fault.native:
            done = build(work)
            if done.returncode:
                return "broken", (done.stdout + done.stderr)[-2000:]
        done = run_tests(work, fault.op, "" if fault.triton else QUICK, fault.triton)
        if done.returncode == PASSED and not fault.triton:
            done = run_tests(work, fault.op)
    finally:
        path.write_text(sound)
    if done.returncode == PASSED:
        return "survived", ""
    if done.returncode != FAILED and done.returncode > 0:
        return "broken", (done.stdout + done.stderr)[-2000:]
    failed = re.search(r"^FAILED tests/(\S+?\.py::\w+)", done.stdout, re.MULTILINE)
    return "caught", failed[1] if failed else f"exit code {done.returncode}"


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", default="", metavar="TEXT", help="faults whose name holds it")
    parser.add_argument("--list", action="store_true", help="name them and end")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="kept for the next run; else a temporary one")
    options = parser.parse_args()
    chosen = [fault for fault in faults() if options.only in fault.name]
    chosen.sort(key=lambda fault: (fault.native, fault.file))
    if options.list:
        say("\n".join(fault.name for fault in chosen))
        return 0
    if wrong := misplaced():
        say("\n".join(wrong))
        return 1
    if not chosen:
        parser.error(f"--only: expected a part of a fault's name, got {options.only!r}")
    with tempfile.TemporaryDirectory() as temporary:
        work = (options.work or Path(temporary)).resolve()
        copy_sources(work)
        if (done := build(work)).returncode:
            say(done.stdout + done.stderr)
            return 1
        for op, triton in sorted({(fault.op, fault.triton) for fault in chosen}):
            if (done := run_tests(work, op, triton=triton)).returncode:
                say(f"{op}: its tests fail without a fault\n{done.stdout[-4000:]}{done.stderr[-2000:]}")
                return 1
            say(f"sound    {op}" + ", in Triton" * triton)
        counts = {"caught": 0, "survived": 0, "broken": 0}
        for fault in chosen:
            began = time.monotonic()
            kind, detail = outcome(work, fault)
            counts[kind] += 1
            say(f"{kind:8} {fault.name} {time.monotonic() - began:.0f} s {detail}")
    say(", ".join(f"{count} {kind}" for kind, count in counts.items()))
    return int(counts["caught"] < len(chosen))


if __name__ == "__main__":
    sys.exit(main())
