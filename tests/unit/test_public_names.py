"""The package's face: names, help, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest

import windowloader as wl

NAMES = {
    "Batch", "DynamicGraph", "Graph", "MinMaxScaler", "RobustScaler", "Series", "Source", "StandardScaler",
    "WindowLoader", "WindowLoaderError", "WindowSet", "WindowSpec", "__version__", "convert", "errors", "folds",
    "open", "scan", "split",
}  # fmt: skip


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_public_name_is_there_and_none_besides() -> None:
    assert set(dir(wl)) == NAMES
    for name in NAMES:
        assert getattr(wl, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        wl.opne  # type: ignore[attr-defined]  # noqa: B018


def test_convert_is_called_by_the_name_of_its_folder() -> None:
    for first in ("", "import windowloader.convert; ", "from windowloader.convert import convert; "):
        code = f"{first}import windowloader as wl; print(callable(wl.convert), wl.convert.convert.__name__)"
        assert python(code) == "True convert"
    with pytest.raises(wl.errors.ConversionError, match="there is no folder"):
        wl.convert(wl.Series(np.ones((4, 2))), "absent/a.zarr")


def test_a_name_that_a_module_shares_stays_the_function() -> None:
    code = (
        "import windowloader.windows.split, windowloader as wl; print(callable(wl.split), callable(wl.folds))"
    )
    assert python(code) == "True True"
    assert not isinstance(wl.split, ModuleType)
    from windowloader.windows.split import split

    assert wl.split is split


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = ["numba", "torch", "tensorstore", "zarr", "pandas", "xarray", "h5py", "scipy", "fsspec"]
    code = f"import sys, windowloader; print([name for name in {heavy} if name in sys.modules])"
    assert python(code) == "[]"


def test_a_series_in_memory_needs_no_optional_package() -> None:
    code = (
        "import sys, numpy as np, windowloader as wl; s = wl.Series(np.zeros((9, 2)), timestamps=('2020-01-01', '1h'));"
        "s.select(nodes=[1]); repr(s); s.fingerprint();"
        "print([m for m in ('numba', 'torch', 'tensorstore', 'zarr', 'pandas', 'xarray', 'h5py') if m in sys.modules])"
    )
    assert python(code) == "[]"


def test_help_begins_with_a_screen_that_has_every_name() -> None:
    text = wl.__doc__ or ""
    assert len(text.splitlines()) <= 30
    for name in NAMES - {"__version__"}:
        assert name in text, name
    shown = python("import pydoc, windowloader; print(pydoc.plain(pydoc.render_doc(windowloader)))")
    assert "class " not in shown.replace("classes", "")  # no class is written out
    assert "FUNCTIONS" not in shown
