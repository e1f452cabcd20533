"""The protocol is declared: nothing finds out by a probe what a source has."""

from __future__ import annotations

import ast
from pathlib import Path

import windowloader as wl

PACKAGE = Path(wl.__file__).parent
PROBES = ("getattr", "hasattr")
SOURCES = ("source", "inner", "part", "pending", "read")  # and whatever ends in one of them


def name_of(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def test_no_source_is_probed() -> None:
    found = []
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and name_of(node.func) in PROBES and node.args:
                asked = node.args[0]
                while isinstance(asked, ast.Call) and name_of(asked.func) in PROBES and asked.args:
                    asked = asked.args[0]
                if name_of(asked).endswith(SOURCES):
                    found.append(f"{file.relative_to(PACKAGE)}:{node.lineno}")
    assert not found
