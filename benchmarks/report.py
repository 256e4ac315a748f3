"""Writes the tables of the README and of benchmarks/results/README.md from the committed results.

    python benchmarks/report.py [--check]        # --check writes nothing and fails if a file would change
    python benchmarks/report.py --resolve FILE   # names the commit in results measured where there was no git

Reads benchmarks/results/*.json: one table for every machine in README.md, between the two `results` markers, with one
line for each op and each model that was sampled; everything that was measured in benchmarks/results/README.md. A line
is the median of the cases that are headlines, by ratio, and beside it the lowest and highest ratio of all cases. Where
results of one machine are of several commits, every row names its own; a case that two files of one machine have is
refused. Kernels that no
result on a GPU is evidence for are named. Results of a quick run, or of sources that are no commit, are refused.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tables
from environment import ROOT, find_commit

BEGIN, END = "<!-- results: written by benchmarks/report.py -->", "<!-- end of results -->"
RESULTS = ROOT / "benchmarks/results"


class RefusedError(ValueError):
    """Results that no table may show."""


def load(path: Path) -> dict[str, Any]:
    """One results file.

    Raises:
        RefusedError: it was a quick run, or what ran is no commit, or nothing was measured.
    """
    report = json.loads(path.read_text())
    commit = report["environment"]["commit"]
    if report.get("quick"):
        raise RefusedError(f"{path.name}: expected a full run, got one with --quick, whose numbers mean nothing")
    if commit == "unknown":
        raise RefusedError(f"{path.name}: expected results of a commit; name it with report.py --resolve {path.name}")
    if commit.endswith("+changes"):
        raise RefusedError(f"{path.name}: expected results of a commit, got {commit}: commit first, then measure")
    if not report["cases"]:
        raise RefusedError(f"{path.name}: expected cases, got none")
    return report


def device(report: dict[str, Any]) -> str:
    return report["environment"].get("device", "cpu")


def by_machine(reports: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Machine → its reports; processors first, then GPUs."""
    found: dict[str, list[dict[str, Any]]] = {}
    for report in sorted(reports, key=lambda report: (device(report) != "cpu", report["environment"]["machine"])):
        found.setdefault(report["environment"]["machine"], []).append(report)
    return found


def readme(reports: list[dict[str, Any]], kernels: Mapping[str, str]) -> str:
    """What stands between the markers: a table for each machine, where its numbers come from, and what never ran.

    A machine without a headline has none.
    """
    blocks = []
    for machine, measured in by_machine(reports).items():
        found: dict[str, list[tuple[dict[str, Any], str]]] = {}
        for report in measured:
            for case in report["cases"]:
                found.setdefault(subject(case), []).append((case, report["environment"]["commit"]))
        several = len({commit for cases in found.values() for _, commit in cases}) > 1
        rows = [line for cases in found.values() if (line := summary(cases))]
        if not rows:
            continue
        head = ["what", "input", "fastgen", "best alternative", "ratio", "ratios of all", "commit"]
        table = tables.markdown([each if several else each[:-1] for each in (head, *rows)])
        notes = dict.fromkeys(f"- {report['benchmark']}: {about(report)}" for report in measured)
        blocks.append("\n".join([f"**{machine}**", "", table, "", *notes]))
    return "\n\n".join([*blocks, never_ran(reports, kernels)])


def subject(case: Mapping[str, Any]) -> str:
    """What a line of the README sums up: the op of a case, or the model that is sampled in it."""
    return f"sample {case['model']}" if tables.is_sampling(case) else case["case"].split()[0].rstrip(",")


def summary(cases: list[tuple[dict[str, Any], str]]) -> list[str]:
    """The median headline (of two the lower), its commit, and the span of all ratios; nothing without a headline."""
    compared = sorted((each for each in cases if each[0]["ratio"] is not None), key=lambda each: each[0]["ratio"])
    headlines = [each for each in compared or cases if each[0].get("headline", True)]
    if not headlines:
        return []
    case, commit = headlines[(len(headlines) - 1) // 2]
    ends = dict.fromkeys(tables.ratio(each) for each, _ in (compared[:1] + compared[-1:]))
    return [*row(case)[:5], f"{' to '.join(ends)} ({len(cases)} case{'s' * (len(cases) > 1)})".strip(), commit]


def check_once(reports: Mapping[str, dict[str, Any]]) -> None:
    """Raise RefusedError where two files have the same case of the same machine: one of them is old."""
    seen: dict[tuple[Any, ...], str] = {}
    for name, report in reports.items():
        env = report["environment"]
        for case in report["cases"]:
            name_of_case = row(case)[0]
            what = (env["machine"], device(report), name_of_case, tuple(case["shape"]), case["dtype"])
            before = seen.setdefault(what, name)
            if before != name:
                commits = [reports[each]["environment"]["commit"] for each in (before, name)]
                raise RefusedError(
                    f"{before} and {name}: expected a case in one of them, got {name_of_case} of {env['machine']} in"
                    f" both, of commits {commits[0]} and {commits[1]}: remove the older"
                )


def row(case: dict[str, Any]) -> list[str]:
    if tables.is_sampling(case):
        name = f"sample {case['model']}, {case['parameters'] / 1e6:.1f} M weights"
        ours, other = tables.sampling_times(case)
        return [name, tables.shape(case["shape"]), ours, other, tables.ratio(case), ""]
    times = tables.micros(case["microseconds"]["fastgen"]), tables.best(case)
    return [case["case"], tables.shape(case["shape"]), *times, tables.ratio(case), tables.rate(case)]


def about(report: dict[str, Any]) -> str:
    env = report["environment"]
    headlines = [case for case in report["cases"] if case.get("headline", True)]
    dtypes = sorted({case["dtype"] for case in headlines or report["cases"]})
    if device(report) == "cuda":
        where = f"driver {env['driver']}, float32 convolutions in {env['float32_convolutions']}"
    else:
        threads = {case.get("threads", env["threads"]) for case in report["cases"]}
        where = " and ".join(f"{n} thread{'s' * (n > 1)}" for n in sorted(threads))
    return f"{where}, {', '.join(dtypes)}, torch {env['torch']}, commit {env['commit']}, {env['date']}"


def never_ran(reports: Iterable[dict[str, Any]], kernels: Mapping[str, str]) -> str:
    """Which GPU kernels no result is evidence for, by file.

    Args:
        reports: results; a case names the ops it ran, and the file of each one's kernel.
        kernels: op → file of its GPU kernel.
    """
    ran: set[tuple[str, str]] = set()
    for report in reports:
        if device(report) == "cuda":
            ran |= {each for case in report["cases"] for each in case.get("kernels", {}).items()}
    missing: dict[str, list[str]] = {}
    for op, source in kernels.items():
        if (op, source) not in ran:
            missing.setdefault(source, []).append(op)
    if not missing:
        return "Every GPU kernel has run on a GPU in these measurements."
    lines = ["**Never run on a GPU: compiled, not run, and so without a number here.**", ""]
    for source, ops in sorted(missing.items()):
        some = len(ops) < list(kernels.values()).count(source)
        lines.append(f"- `{source}`" + f": {', '.join(sorted(ops))}" * some)
    return "\n".join(lines)


def everything(reports: Mapping[str, dict[str, Any]]) -> str:
    """The page of all results: every case, every contender, for each file."""
    lines = ["# Everything that was measured", "", "Written by `benchmarks/report.py` from the files beside it.", ""]
    lines += ["Times are medians, with the quartiles in brackets. Memory is what a call takes beyond its inputs.", ""]
    for name, report in reports.items():
        lines += [f"## {name}", "", f"{report['environment']['machine']}; {about(report)}", ""]
        head = ["what", "input", "dtype", "contenders", "ratio", "floor", "reached", "memory"]
        lines += [tables.markdown([head, *(full_row(case) for case in report["cases"])]), ""]
        lines += [f"- failed: {each['case']}: {each['error']}" for each in report.get("failed", [])]
        lines += [
            f"- {case['case']}, {tables.shape(case['shape'])}, {case['dtype']}: without {contender}: {why}"
            for case in report["cases"]
            for contender, why in case.get("refused", {}).items()
        ]
    return "\n".join(lines).rstrip() + "\n"


def full_row(case: dict[str, Any]) -> list[str]:
    if tables.is_sampling(case):
        name, shape, ours, other, ratio, _ = row(case)
        return [name, shape, case["dtype"], f"**fastgen {ours}**<br>{other}", ratio, "", "", ""]
    contenders = []
    for name, value in case["microseconds"].items():
        low, high = (tables.micros(each) for each in case["quartiles"][name])
        text = f"{name} {tables.micros(value)} [{low}, {high}]"
        if "wall_microseconds" in case:
            text += f", with launches {tables.micros(case['wall_microseconds'][name])}"
        contenders.append(f"**{text}**" if name == "fastgen" else text)
    floor = tables.micros(case["floor_microseconds"]) if "floor_microseconds" in case else ""
    cells = [case["case"], tables.shape(case["shape"]), case["dtype"], "<br>".join(contenders), tables.ratio(case)]
    return [*cells, floor, tables.rate(case), tables.memory(case, "fastgen")]


def resolve(path: Path) -> str:
    """Write into a results file the commit that its sources are; return it.

    Raises:
        RefusedError: no commit of this repository has them.
    """
    report = json.loads(path.read_text())
    commit = find_commit(report["environment"]["sources"])
    if commit is None:
        raise RefusedError(f"{path.name}: no commit here has the sources it was measured with")
    report["environment"]["commit"] = commit
    path.write_text(json.dumps(report, indent=1) + "\n")
    return commit


def gpu_kernels() -> dict[str, str]:
    """Op → the file of its kernel for CUDA."""
    import fastgen.ops  # noqa: F401 - defines them
    from fastgen.ops._registry import OPS

    return {op: sources["CUDA"] for op, sources in OPS.items() if "CUDA" in sources}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--resolve", type=Path, metavar="FILE")
    options = parser.parse_args()
    try:
        if options.resolve is not None:
            print(resolve(options.resolve))
            return
        reports = {path.name: load(path) for path in sorted(RESULTS.glob("*.json"))}
        if not reports:
            raise RefusedError("benchmarks/results: expected results, found none")
        check_once(reports)
    except RefusedError as error:
        sys.exit(str(error))
    before, rest = (ROOT / "README.md").read_text().split(BEGIN)
    _, after = rest.split(END)
    written = {
        ROOT / "README.md": f"{before}{BEGIN}\n{readme(list(reports.values()), gpu_kernels())}\n{END}{after}",
        RESULTS / "README.md": everything(reports),
    }
    for path, text in written.items():
        if options.check and (not path.exists() or path.read_text() != text):
            sys.exit(f"{path.relative_to(ROOT)}: its tables are not what benchmarks/report.py writes")
        if not options.check:
            path.write_text(text)


if __name__ == "__main__":
    main()
