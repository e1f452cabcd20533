"""The order of folders, and of files within a folder: every import leads down, also lazy ones and those for types."""

from __future__ import annotations

import ast
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FLOORS = [
    "errors", "util", "sources", "series", "windows", "scaling", "order", "rows", "batch", "plan", "loader", "convert",
    "__init__", "adapters", "view", "testing", "warmup", "bench", "demo", "cli", "__main__",
]  # fmt: skip

# One-line forwards in methods of values: `_repr_html_`, `plot`, `WindowSet.read`. At most eight.
FORWARDS = {
    ("loader.stats", "view.pictures"),
    ("plan.plan", "view.notebook"),
    ("plan.plan", "view.pictures"),
    ("series.series", "view.notebook"),
    ("windows.split", "view.notebook"),
    ("windows.split", "view.pictures"),
    ("windows.window_set", "batch.batch"),
    ("windows.window_set", "batch.window_reader"),
}

# What is still to be turned round: this list only shrinks.
RED: set[tuple[str, str]] = set()


def modules() -> dict[str, Path]:
    """Files of the package by dotted names, without the package's own."""
    found = {}
    for base, prefix in ((ROOT / "windowloader", ()), (ROOT / "adapters", ("adapters",))):
        for path in base.rglob("*.py"):
            parts = path.relative_to(base).with_suffix("").parts
            if prefix or parts[0] != "adapters":
                found[".".join((*prefix, *parts)).removesuffix(".__init__")] = path
    return found


def imports(name: str, known: dict[str, Path]) -> set[str]:
    """Names of the modules that a file imports, wherever in it the import stands."""
    path = known[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {
                f"{alias.name}.".removeprefix("windowloader.").rstrip(".") or "__init__"
                for alias in node.names
            }
        elif isinstance(node, ast.ImportFrom):
            base = node.module.split(".") if node.module else []
            if node.level:
                base = [] if name == "__init__" else package[: len(package) - node.level + 1] + base
                base = node.module.split(".") if name == "__init__" and node.module else base
            elif base[:1] != ["windowloader"]:
                continue
            else:
                base = base[1:]
            for alias in node.names:
                inner = ".".join((*base, alias.name))
                found.add(inner if inner in known else ".".join(base) or "__init__")
    return {target for target in found if target in known and target != name}


def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: imports(name, known) for name in known}


def test_imports_lead_down():
    floor = {name: FLOORS.index(name.split(".")[0]) for name in modules()}
    upward = {
        (name, target)
        for name, targets in graph().items()
        for target in targets
        if floor[target] > floor[name]
    }
    assert upward - RED == FORWARDS, sorted((upward - RED) ^ FORWARDS)


def test_files_have_an_order():
    """Without the forwards there is no circle of imports, in a folder or between them."""
    assert {(name, target) for name, targets in graph().items() for target in targets} >= RED
    downward = {
        name: {target for target in targets if (name, target) not in FORWARDS | RED}
        for name, targets in graph().items()
    }
    try:
        TopologicalSorter(downward).prepare()
    except CycleError as error:
        raise AssertionError(f"a circle of imports: {' -> '.join(error.args[1])}") from None


def test_forwards_are_few():
    assert len(FORWARDS) <= 8


def test_no_two_classes_share_a_name():
    classes = Counter(
        node.name
        for path in modules().values()
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, times in classes.items() if times > 1 and name[0] != "_"] == []
