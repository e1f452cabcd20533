"""The package as it is shipped: its folders, its names, and what importing it brings in."""

from __future__ import annotations

import ast
import builtins
import graphlib
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import windowloader
from windowloader import errors

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_packages_are_the_folders() -> None:
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "windowloader").rglob("__init__.py")
        if "adapters" not in path.parts
    }
    adapters = {
        ".".join(("windowloader", *path.parent.relative_to(ROOT).parts))
        for path in (ROOT / "adapters").rglob("__init__.py")
    }
    assert listed == folders | adapters


def test_adapters_are_reached_through_the_package() -> None:
    link = ROOT / "windowloader" / "adapters"
    assert link.is_symlink()
    assert link.readlink() == Path("../adapters")


def test_modules_load_in_one_direction() -> None:
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in ROOT.glob("windowloader/**/*.py")
    }
    modules = {
        name.removesuffix(".__init__"): path for name, path in files.items() if ".adapters" not in name
    }
    needs: dict[str, set[str]] = {}
    for name, path in modules.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        found = needs.setdefault(name, set())
        for node in ast.parse(
            path.read_text(encoding="utf-8")
        ).body:  # as it loads: not in functions, nor for types
            if isinstance(node, ast.ImportFrom):
                above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                base = ".".join([*above, *filter(None, [node.module])])
                inner = {f"{base}.{alias.name}" for alias in node.names} & set(modules)
                found |= inner or {base} & set(modules)
    assert sum(map(len, needs.values())) > 300
    graphlib.TopologicalSorter(needs).prepare()  # CycleError names a circle


def test_versions_agree() -> None:
    assert PROJECT["project"]["version"] == windowloader.__version__


def test_every_public_name_is_there_and_in_help() -> None:
    for name in dir(windowloader):
        assert getattr(windowloader, name) is not None
    text = windowloader.__doc__ or ""
    missing = [name for name in dir(windowloader) if not name.startswith("_") and name not in text]
    assert missing == []
    assert len(text.splitlines()) <= 24, "help(windowloader) should fit a screen"


def test_a_submodule_does_not_hide_the_function_of_its_name() -> None:
    script = "import windowloader.windows.split, windowloader as wl; assert callable(wl.split), wl.split"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_importing_loads_no_framework_and_nothing_slow() -> None:
    script = (
        "import sys, windowloader\n"
        "slow = {'torch', 'numba', 'tensorstore', 'zarr', 'fsspec', 'pandas', 'xarray', 'h5py', 'typer', 'rich'}\n"
        "print(*sorted(slow & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


def test_a_loop_over_arrays_loads_no_framework() -> None:
    script = (
        "import sys, numpy as np, windowloader as wl\n"
        "series = wl.Series(np.arange(80.0).reshape(20, 4))\n"
        "train, val = wl.split(series, wl.WindowSpec(lookback=3, horizon=2), (0.7, 0.3))\n"
        "loader = wl.WindowLoader(train, batch_size=4, scaler=wl.StandardScaler.fit(train))\n"
        "assert sum(len(batch.starts) for batch in loader) == len(train)\n"
        "loader.close()\n"
        "print(*sorted({'torch', 'jax', 'lightning', 'tensorflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


def test_the_command_line_starts_without_a_framework() -> None:
    script = (
        "import sys, windowloader.cli\n"
        "print(*sorted({'torch', 'numba', 'matplotlib', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


def test_the_tree_of_errors_is_the_classes() -> None:
    """The docstring draws each class once, under its parent, with the built-in it inherits."""
    stack: list[str] = []
    drawn: dict[str, tuple[str | None, str | None]] = {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^    ((?:│   |    )*(?:[├└]── )?)(\w+Error)\b(?: \((\w+)\))?", line)
        if not match:
            continue
        depth = len(match[1]) // 4
        stack[depth:] = [match[2]]
        drawn[match[2]] = (stack[depth - 1] if depth else None, match[3])
    classes = {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.WindowLoaderError)
    }
    assert set(drawn) == set(classes) == set(errors.__all__)
    for name, (parent, builtin) in drawn.items():
        if parent is not None:
            assert classes[name].__bases__[0] is classes[parent], name
        others = [base.__name__ for base in classes[name].__bases__[1:]]
        assert others == ([builtin] if builtin else []), name
        assert builtin is None or hasattr(builtins, builtin)


def test_the_command_line_is_an_extra() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    assert {re.split(r"\W", one)[0] for one in extras["cli"]} == {"typer", "rich"}
    assert all(set(extras["cli"]) <= set(extras[name]) for name in ("demo", "test"))
    assert not [one for one in PROJECT["project"]["dependencies"] if one.startswith(("typer", "rich"))]


def test_opening_an_array_loads_nothing_of_the_command_line_and_no_library_of_formats(tmp_path) -> None:
    script = (
        "import sys, numpy as np, windowloader as wl\n"
        "np.save('a.npy', np.zeros((30, 4)))\n"
        "assert wl.open('a.npy').num_steps == 30\n"
        "found = {'typer', 'rich', 'click', 'pandas', 'xarray', 'h5py', 'zarr', 'torch'} & set(sys.modules)\n"
        "print(*sorted(found))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.split() == []


def test_extras_pin_torch_where_the_readme_installs_it() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    assert all("torch==2.13.0" in extras[name] for name in ("demo", "test"))
    assert "torch>=2.4" in extras["torch"]
    hosts = re.findall(
        r"https?://|--index-url|find-links", (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    )
    assert hosts == [], "no package index belongs into the project's files"
