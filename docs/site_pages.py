"""What the site holds beside the guides: the README, the help of every command, and a page for each public module.

mkdocs calls the functions ``on_...``, and griffe, which reads the package for the reference pages, ``PublicNames``.

A name in backticks is a cross-reference: in guides and docstrings a full one, as ``fastgen.sampling.compile``, which
has to be on the site, or the build fails; in docstrings also a short one that is public where it is used.
"""

import contextlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

import fastgen
from fastgen import cli

ROOT = Path(__file__).parent.parent

TEXTS = {
    "index.md": "README.md",
    "measured.md": "benchmarks/results/README.md",
    "building.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
"""Pages of the site whose text has its place elsewhere in the repository."""

PARTS: dict[str, tuple[str, ...]] = {
    "fastgen": ("fastgen.fusing.FuseReport", "fastgen.fusing.Swapped", "fastgen.fusing.Left"),
    "fastgen.models": (
        "fastgen.models.likelihoods",
        "fastgen.models.map_features",
        "fastgen.models.networks",
        "fastgen.models.autoencoder.AGES",
        "fastgen.models.gated_pixelcnn.GatedLayer",
        "fastgen.models.image_gpt.Block",
        "fastgen.models.image_gpt.CausalAttention",
        "fastgen.models.pixelcnn.ResidualBlock",
        "fastgen.models.pixelcnnpp_layers",
        "fastgen.models.pixelsnail.AttentionBlock",
        "fastgen.models.pixelsnail.ResidualBlock",
        "fastgen.models.pixelsnail.background",
        "fastgen.models.point_gan.PointGAN",
        "fastgen.models.priors",
        "fastgen.models.residual_blocks",
    ),
    "fastgen.ops": ("fastgen.ops.sample",),
    "fastgen.sampling": ("fastgen.sampling.plan",),
}
"""What else a module's page shows: names that lie deeper, which guides and docstrings speak of."""

FULL_NAME = r"(?P<path>fastgen(?:\.[A-Za-z_]\w*)+)"


def modules() -> dict[str, ModuleType]:
    """The public modules: fastgen, and those of its ``__all__``."""
    found = {name: getattr(fastgen, name) for name in fastgen.__all__}
    inner = {f"fastgen.{name}": value for name, value in found.items() if isinstance(value, ModuleType)}
    return {"fastgen": fastgen, **dict(sorted(inner.items()))}


def public_names(module: ModuleType) -> list[str]:
    """Those of its ``__all__``; without one, the classes and functions that it defines and whose names say so."""
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if not name.startswith("_")]
    there = vars(module).items()
    own = [name for name, value in there if getattr(value, "__module__", None) == module.__name__ and callable(value)]
    return [name for name in own if not name.startswith("_")]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    pages = {name: _moved((ROOT / source).read_text()) for name, source in TEXTS.items()}
    pages["commands.md"] = _commands()
    for name in modules():
        shown = "".join(f"::: {part}\n    options: {{heading_level: 2}}\n\n" for part in PARTS.get(name, ()))
        shown += _contents() if name == "fastgen" else ""
        pages[f"reference/{name}.md"] = f"---\ntitle: {name}\n---\n\n::: {name}\n\n{shown}"
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    reference = [{name: f"reference/{name}.md"} for name in modules()]
    config.nav = [{"Reference": reference} if "Reference" in entry else entry for entry in config.nav or []]
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Full names in backticks become links, but for those in blocks of code, and texts from elsewhere their pages."""
    for name, source in TEXTS.items():
        markdown = markdown.replace(f"](../{source})", f"]({name})")
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.S | re.M)
    return "".join(part if part.startswith("```") else _linked(part) for part in parts)


def on_post_build(config: MkDocsConfig) -> None:
    """Fail unless every public name has its place on the site."""
    html = "".join(page.read_text() for page in sorted(Path(config.site_dir).rglob("*.html")))
    there = set(re.findall(r'\bid="(fastgen[\w.]*)"', html))
    wanted = [f"{name}.{each}" for name, module in modules().items() for each in public_names(module)]
    if missing := [name for name in [*modules(), *wanted] if name not in there]:
        raise PluginError(f"the site lacks {', '.join(missing)}: public names need a docstring")


def _linked(text: str) -> str:
    return re.sub(rf"(?<![`\[])(`{FULL_NAME}(?:\([^`]*\))?`)(?!`)", r"[\1][\g<path>]", text)


def _moved(text: str) -> str:
    """A text of the repository, with links to where its files are on the site."""
    for name, source in TEXTS.items():
        text = text.replace(f"]({source})", f"]({name})")
    return text.replace("](docs/", "](")


def _contents() -> str:
    """The modules, with the first line of what each says of itself."""
    lines = {name: (module.__doc__ or "").split("\n")[0] for name, module in modules().items()}
    rows = [f"| `{name}` | {line} |" for name, line in lines.items() if name != "fastgen"]
    return "\n".join(["## Modules", "", "| module | what |", "|---|---|", *rows, ""])


def _commands() -> str:
    """A page of what every command says of itself."""
    from fastgen.commands.model_options import MODELS

    names: list[list[str]] = [[]]
    for command in cli.COMMANDS:
        names += [[command], *([command, model] for model in MODELS if command == "train")]
    sections = ["# Command line"]
    for words in names:
        if words != ["info"]:  # which has no options
            title = f"{'#' * (1 + max(1, len(words)))} fastgen {' '.join(words)}".rstrip()
            sections.append(f"{title}\n\n```text\n{_help(words)}\n```")
    return "\n\n".join(sections)


def _help(words: list[str]) -> str:
    said = io.StringIO()
    width = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            cli.main([*words, "--help"])
    finally:
        os.environ.pop("COLUMNS")
        if width is not None:
            os.environ["COLUMNS"] = width
    return re.sub(r"\x1b\[[\d;]*m", "", said.getvalue()).strip()


class PublicNames(griffe.Extension):
    """Names as a program sees them, and cross-references in docstrings."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **_: Any) -> None:
        loader.resolve_aliases(implicit=True, external=False)
        shown = {f"{name}.{each}" for name, module in modules().items() for each in public_names(module)}
        shown |= {part for parts in PARTS.values() for part in parts} | set(modules())
        for each in _walk(pkg):
            if each.docstring is not None:
                text = _each_on_its_own(_cross_referenced(each, shown))
                each.docstring.value = re.sub(r"::$", ":", text, flags=re.M)  # code follows, to Markdown, too
        for each in [each for each in _walk(pkg) if isinstance(each, griffe.Class)]:
            _inherit_docstrings(each)
        for module in [each for each in _walk(pkg) if isinstance(each, griffe.Module)]:
            _functions_over_modules(module)


def _walk(parent: griffe.Object) -> Iterator[griffe.Object]:
    yield parent
    for member in parent.members.values():
        if not member.is_alias:
            yield from _walk(member)


def _inherit_docstrings(there: griffe.Class) -> None:
    """A method that says nothing of itself is what its base says."""
    for name, member in there.members.items():
        if member.is_function and not member.docstring and not name.startswith("_"):
            told = [base.members[name] for base in there.mro() if name in base.members]
            member.docstring = next((each.docstring for each in told if each.docstring), None)


def _functions_over_modules(package: griffe.Module) -> None:
    """``from .name import name`` leaves the function under this name, as in Python, where griffe leaves the module."""
    for name, path in package.imports.items():
        module = package.members.get(name)
        if isinstance(module, griffe.Module) and path == f"{module.path}.{name}":
            package.members[name] = griffe.Alias(name, module.members[name], parent=package)


def _cross_referenced(there: griffe.Object, shown: set[str]) -> str:
    """The docstring, with links for names in backticks: full ones, and short ones that are public here."""
    parameters = {each.name for each in there.parameters} if isinstance(there, griffe.Function) else set()

    def link(found: re.Match[str]) -> str:
        path = found["path"]
        if not path.startswith("fastgen"):
            path = "" if path in parameters else _public_path(there, path, shown)
        return f"[`{found[0].strip('`')}`][{path}]" if path and path != there.path else found[0]

    name = r"(?P<path>[A-Za-z]\w*(?:\.[A-Za-z]\w*)*)"
    return re.sub(rf"``{name}(?:\([^`]*\))?``", link, there.docstring.value if there.docstring else "")


def _public_path(there: griffe.Object, name: str, shown: set[str]) -> str:
    first, *rest = name.split(".")
    with contextlib.suppress(griffe.NameResolutionError, KeyError):
        path = there.resolve(first)
        candidates = [each for each in shown if each.split(".")[-1] == first]
        same = [each for each in candidates if _same(there, each, path)]
        return ".".join([min(same, key=len), *rest]) if same and not rest else ""
    return ""


def _same(there: griffe.Object, shown: str, path: str) -> bool:
    """Whether the name that is shown is the thing at ``path``."""
    if shown == path:
        return True
    with contextlib.suppress(KeyError, griffe.AliasResolutionError):
        return there.modules_collection[shown].canonical_path == path
    return False


def _each_on_its_own(docstring: str) -> str:
    """``a, b: what they are`` in Args becomes an entry for each: griffe holds the names against the signature."""
    entry = re.compile(r"^( {4})(\w+(?:, \w+)+): (.*(?:\n {8}.*)*)", flags=re.M)
    return entry.sub(
        lambda found: "\n".join(f"{found[1]}{name}: {found[3]}" for name in found[2].split(", ")), docstring
    )
