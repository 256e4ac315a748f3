"""The site: which names are public, that names in backticks exist, and that its build is part of what must pass.

The build itself, ``mkdocs build --strict`` in .ci/run, fails where a public name is not on the site or a link leads
nowhere.
"""

import ast
import importlib
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import fastgen

ROOT = Path(__file__).parent.parent
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]

ELSEWHERE = {"--transform", "--center_crop", "--resolution", "--benchmark-compare"}
"""Options of other programs that the texts speak of."""


@pytest.fixture(scope="module")
def pages() -> object:
    """docs/site_pages.py."""
    for package in ("mkdocs", "griffe", "tyro"):
        pytest.importorskip(package, reason=f"{package} comes with fastgen[docs]")
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        return importlib.import_module("site_pages")
    finally:
        sys.path.pop(0)


def exists(path: str) -> bool:
    """Whether a full name is one of a module, or of something in a module."""
    parts = path.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:n]))
        except ImportError:
            continue
        for at, part in enumerate(parts[n:], n):
            if not hasattr(found, part):
                return at + 1 == len(parts) and part in getattr(found, "__annotations__", {})
            found = getattr(found, part)
        return True
    return False


def docstrings() -> dict[str, str]:
    found = {}
    for path in sorted((ROOT / "fastgen").rglob("*.py")):
        constants = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
        found[str(path.relative_to(ROOT))] = "\n".join(text for text in constants if isinstance(text, str))
    return found


def test_names_in_backticks_exist() -> None:
    name = r"`(fastgen(?:\.[A-Za-z_]\w*)+)(?:\([^`]*\))?`"
    texts = {path.name: path.read_text() for path in TEXTS} | docstrings()
    named = {(where, path) for where, text in texts.items() for path in re.findall(name, text)}
    assert len(named) > 50
    assert sorted(each for each in named if not exists(each[1])) == []
    assert [where for where, text in texts.items() if re.search(r":(class|mod|func|meth|attr):`", text)] == []


def test_every_public_module_has_a_page(pages: SimpleNamespace) -> None:
    modules = pages.modules()
    assert {"fastgen.ops", "fastgen.nn", "fastgen.models", "fastgen.sampling", "fastgen.training"} <= set(modules)
    assert set(modules) - {"fastgen"} <= {f"fastgen.{name}" for name in fastgen.__all__}
    assert pages.public_names(modules["fastgen.data"]) == fastgen.data.__all__
    names = pages.public_names(modules["fastgen.baselines"])
    assert {"PCA", "KMeans", "GaussianMixture", "KernelDensity"} <= set(names)
    assert not {"Any", "Tensor", "check_integer", "require"} & set(names), "those of other modules"


def test_a_public_name_without_a_place_fails_the_build(pages: SimpleNamespace, tmp_path: Path) -> None:
    every = pages.modules().items()
    names = [*pages.modules(), *(f"{name}.{each}" for name, module in every for each in pages.public_names(module))]
    page = tmp_path / "index.html"
    page.write_text("".join(f'<h2 id="{name}">' for name in names))
    pages.on_post_build(SimpleNamespace(site_dir=tmp_path))
    page.write_text("".join(f'<h2 id="{name}">' for name in names if name != "fastgen.ops.rsample_kl"))
    with pytest.raises(Exception, match=r"^the site lacks fastgen\.ops\.rsample_kl: "):
        pages.on_post_build(SimpleNamespace(site_dir=tmp_path))


def test_names_in_backticks_become_links(pages: SimpleNamespace) -> None:
    block = "```text\n`fastgen.fuse`\n```\n"
    text = "By `fastgen.fuse(model)`, [`fastgen.nn`](x.md):\n\n" + block + "`fastgen info` `fastgen.load`\n"
    linked = "By [`fastgen.fuse(model)`][fastgen.fuse], [`fastgen.nn`](x.md):\n\n" + block
    assert pages.on_page_markdown(text) == linked + "`fastgen info` [`fastgen.load`][fastgen.load]\n"
    assert pages.on_page_markdown("[all](../benchmarks/results/README.md)") == "[all](measured.md)"


def test_help_is_on_the_page_of_commands(pages: SimpleNamespace) -> None:
    page = pages._commands()
    for section in ("## fastgen train\n", "### fastgen train vae\n", "## fastgen sample\n", "## fastgen bench\n"):
        text = page.split(section)[1].split("\n#")[0]
        assert "usage: fastgen" in text
        assert "\x1b" not in text
    assert "--likelihood {bernoulli,gaussian,categorical,logistic}" in page
    told = {option for text in TEXTS for option in re.findall(r"`(--[\w-]+)", text.read_text())}
    assert told - ELSEWHERE <= set(re.findall(r"--[\w-]+", page)), "options that the guides speak of"


def test_build_is_part_of_what_must_pass() -> None:
    """And hears warnings: with ``--quiet`` there are none."""
    (line,) = re.findall(r"^(?:\w+=1 )?\.venv/bin/mkdocs build .*$", (ROOT / ".ci/run").read_text(), flags=re.M)
    options = line.split("&")[0].split()
    assert "--strict" in options
    assert "--quiet" not in options
    assert "/site/" in (ROOT / ".gitignore").read_text().splitlines()
