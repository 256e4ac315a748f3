"""The floor plan: imports lead down, never up, and never in a circle."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import fastgen

ROOT = Path(fastgen.__file__).parent
#: From the ground up, with what lies on one floor in the order in which it may be used. A room, or a file.
FLOORS = [
    "_version", "_compile_cache", "_constants", "_extras", "_interrupt", "_extension", "_console", "_checks", "_alike",
    "_files", "_memory", "_places", "_philox", "_draws", "_shadow",
    "ops", "nn",
    "conditions", "distributions", "losses", "measures", "metrics", "pictures", "data", "objective",
    "baselines",
    "fusing", "sampling", "codec", "exploring",
    "models",
    "exporting",
    "training",
    "quality",
    "commands",
    "cli", "__main__",
]  # fmt: skip


def modules(root: Path) -> dict[str, Path]:
    """Dotted names inside of the package; the package itself, which names all that it shows, is no room."""
    found = {".".join(path.relative_to(root).with_suffix("").parts): path for path in sorted(root.rglob("*.py"))}
    return {name.removesuffix(".__init__"): path for name, path in found.items() if name != "__init__"}


def imports(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules that one imports, wherever in it, and for whatever: for type checkers, too."""
    inside = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = inside[: len(inside) - node.level + 1] + (node.module.split(".") if node.module else [])
        for alias in node.names:
            target = ".".join([*base, alias.name])
            target = target if target in known else ".".join(base)
            if target and target != name:
                yield target


def upward(root: Path, floors: list[str]) -> list[str]:
    """The imports that do not lead to a room further down."""
    known = modules(root)
    pairs = [(name, to) for name, path in known.items() for to in imports(name, path, known)]
    height = {room: index for index, room in enumerate(floors)}
    rooms = [(name, to, name.split(".")[0], to.split(".")[0]) for name, to in pairs]
    return [f"{name} → {to}" for name, to, here, there in rooms if here != there and height[here] <= height[there]]


def in_order(root: Path) -> list[str]:
    """The modules, each after those that it imports; CycleError where there is a circle."""
    known = modules(root)
    graph = {name: set(imports(name, path, known)) for name, path in known.items()}
    for name in known:  # whoever imports a room's module runs the room's __init__ before it; that imports the module
        graph[name].discard(name.rpartition(".")[0])
    return list(TopologicalSorter(graph).static_order())


def test_imports_lead_down() -> None:
    assert set(FLOORS) == {name.split(".")[0] for name in modules(ROOT)}, "every room has its floor"
    assert not upward(ROOT, FLOORS)
    assert "training.loop" in in_order(ROOT), "and there is no circle"


def test_a_way_up_and_a_circle_are_found(tmp_path: Path) -> None:
    for name, text in (
        ("__init__", ""), ("top/__init__", "from .. import low\n"), ("low", "def f():\n    from .top import part\n"),
        ("top/part", "from .other import x\n"), ("top/other", "if True:\n    from . import part\n"),
    ):  # fmt: skip
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert upward(tmp_path, ["low", "top"]) == ["low → top.part"]
    with pytest.raises(ValueError, match="cycle"):
        in_order(tmp_path)
