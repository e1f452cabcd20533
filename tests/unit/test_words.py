"""The field's words, in code, messages and pages: the project's former names for things are gone."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# What each was called before → the word that is used now (docs/glossary.md has them all).
FORMER = {
    r"benches": "row buffers",
    r"courses?": "lane cache",
    r"halls?": "block cache",
    r"passages?": "pass over a lane",
    r"grounds": "block memory",
    r"seams?": "overlap",
    r"stash(ed)?": "overlap buffer",
    r"deals?|dealt|dealing": "spread, assign",
    r"crews?": "worker pool",
    r"weaves?|weaving|woven": "interleave",
    r"foretells?|foretold": "estimate",
    r"pickers?": "window reader",
    r"survey": "plan_reads",
    r"residency": "block schedule",
    r"blobs?": "remote object",
    r"mirror(s|ed|ing)?": "disk cache",
    r"whoever": "callers, what uses it",
    r"at[_ ]hand": "local, in memory or mapped",
    r"made[_ ]ahead": "prefetched",
    r"told[_ ]ahead": "advised",
}
OTHERS = re.compile("of course|print_blob|azurite-blob")  # not ours
WORD = re.compile("|".join(rf"(?<![a-z])(?:{word})(?![a-z])" for word in FORMER), re.IGNORECASE)


def texts() -> list[Path]:
    folders = [("windowloader", "py"), ("adapters", "py"), ("tests", "py"), ("docs", "md"), ("docs", "svg")]
    found = [path for folder, end in folders for path in (ROOT / folder).rglob(f"*.{end}")]
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(path for path in found if path != Path(__file__))]


def test_former_words_are_gone():
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in texts()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for match in WORD.finditer(OTHERS.sub("", line))
    ]
    found += [str(path.relative_to(ROOT)) for path in texts() if WORD.search(path.stem.replace("_", " "))]
    assert not found, "\n".join(found[:60])
