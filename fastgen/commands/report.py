"""``fastgen report``: one HTML page about a run."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from .._files import check_can_write, write_atomic
from ..training import Run
from . import parse, report_page
from .animation import animate
from .command_line import command_line


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Write one page about a run: curves, samples, timings and options. It needs no server and fetches nothing."""

    run: tyro.conf.Positional[Path]
    """Folder of the run, finished or not."""
    out: Path | None = None
    """Page to write; default: report.html in the run's folder."""


def main(arguments: list[str]) -> str:
    """Write the page as the arguments say."""
    options = parse(ReportOptions, "report", arguments)
    if Run(options.run).config():  # else there is no run to write into
        animate(Run(options.run))
    page = report_page.write(Run(options.run), command_line(Run(options.run)))
    out = options.run / "report.html" if options.out is None else options.out
    check_can_write("out", out, (".html", ".htm"))
    write_atomic(out, page.encode())
    return f"{out}: {len(page) / 1024:,.0f} KiB"
