"""Compare the wheel that was built from the sdist with the folders: other backends lost the adapters without a word.

Run: python tests/check_wheel.py DIST
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def expected() -> set[str]:
    """Every module of the package and of the adapters, where a wheel has it."""
    core = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "windowloader").rglob("*.py")
        if "adapters" not in path.parts
    }
    adapters = {
        f"windowloader/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "adapters").rglob("*.py")
    }
    return core | adapters | {"windowloader/py.typed"}


def main(folder: str) -> None:
    """Exit with a message where the lists differ."""
    (wheel,) = Path(folder).glob("*.whl")
    (_,) = Path(folder).glob("*.tar.gz")
    found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    if found != expected():
        sys.exit(
            f"{wheel.name}: missing {sorted(expected() - found)}, unexpected {sorted(found - expected())}"
        )
    print(f"{wheel.name}: {len(found)} files, as in the folders")


if __name__ == "__main__":
    main(sys.argv[1])
