"""Every block of the README and the documentation runs as it stands.

Python blocks of a page share one namespace and one folder, which holds the files the pages speak of (`furnish`). A
``text`` block right after a python block is what it must print. ``<!-- not run: why -->`` before a block leaves it
out; ``<!-- run -->`` before a console block has its ``$ windowloader …`` lines run.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
from typer.testing import CliRunner

from windowloader.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- (?P<mark>run|not run: [^>]+?) -->\n)?^```(?P<language>\w+)[^\n]*\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


class Block(NamedTuple):
    language: str
    text: str
    mark: str
    line: int
    follows: int  # characters between the end of the block before and this one


def blocks(page: Path) -> list[Block]:
    text, found, end = page.read_text(encoding="utf-8"), [], 0
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("text")) + 1
        between = len(text[end : match.start()].strip())
        found.append(Block(match["language"], match["text"], match["mark"] or "", line, between))
        end = match.end()
    return found


def furnish(folder: Path) -> None:
    """Write the files that pages open: pems.zarr, 400 five-minute steps of 8 sensors."""
    import zarr

    speeds = np.random.default_rng(0).uniform(20, 70, (400, 8)).astype(np.float32)
    zarr.save_array(folder / "pems.zarr", speeds)


def run_page(page: Path) -> int:
    """Run a page in the present folder; return how many blocks ran."""
    main, script = sys.modules["__main__"], ModuleType("__main__")
    sys.modules["__main__"] = script  # so that a class of the page can be pickled, as one of a script can
    try:
        return run_blocks(page, vars(script))
    finally:
        sys.modules["__main__"] = main


def run_blocks(page: Path, names: dict[str, object]) -> int:
    printed, ran = None, 0
    for block in blocks(page):
        if block.language == "python" and not block.mark.startswith("not run"):
            code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(code, names)
            printed, ran = output.getvalue(), ran + 1
        elif block.language == "text" and printed is not None and block.follows == 0:
            assert printed.split() == block.text.split(), f"{page.name}:{block.line} printed\n{printed}"
        elif block.language == "console" and block.mark == "run":
            for line in re.findall(r"^\$ windowloader (.*)$", block.text, re.MULTILINE):
                result = CliRunner().invoke(app, shlex.split(line), catch_exceptions=False)
                assert result.exit_code == 0, f"{page.name}: windowloader {line}\n{result.output}"
                ran += 1
    return ran


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runnable = [
        block
        for block in blocks(page)
        if (block.language == "python" and not block.mark.startswith("not run"))
        or (block.language == "console" and block.mark == "run")
    ]
    if not runnable:
        return
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run_page(page) >= len(runnable)


def test_a_page_that_is_wrong_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n")
    with pytest.raises(AssertionError, match="printed"):
        run_page(page)
    page.write_text(
        "<!-- not run: it needs a bucket -->\n```python\nraise ValueError\n```\n\nThen:\n\n```python\nx = 1\n```\n"
    )
    assert run_page(page) == 1


def test_links_between_pages_lead_somewhere() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
        if not target.startswith(("http:", "https:")) and not (page.parent / target).exists()
    ]
    assert not broken


def test_pages_name_nothing_of_a_machine() -> None:
    told = [
        page.name for page in PAGES if re.search(r"/(work|home|root|opt)/", page.read_text(encoding="utf-8"))
    ]
    assert not told, os.linesep.join(told)
