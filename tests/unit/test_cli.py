"""The command line: help, version, errors as messages."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest
from typer.testing import CliRunner

from windowloader import __version__, cli

WIDE = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}


def run(*arguments: str):
    return CliRunner().invoke(cli.app, list(arguments), env=WIDE)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_command_is_in_the_help_and_has_its_own(name: str) -> None:
    assert hasattr(import_module(f"windowloader.commands.{name}"), "register")
    assert name in run("--help").output
    own = run(name, "--help")
    assert own.exit_code == 0
    assert "Usage" in own.output


def test_version() -> None:
    assert run("--version").output.strip() == __version__


def test_the_module_is_the_command() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "windowloader", "--version"], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == __version__


def test_nothing_asked_prints_the_help() -> None:
    assert "Commands" in run().output


def test_an_unknown_command_fails() -> None:
    assert run("dmeo").exit_code == 2


def test_errors_of_the_package_are_messages_not_tracebacks(tmp_path) -> None:
    script = "import sys; from windowloader.cli import main; sys.argv[1:] = ['demo', '--data', 'absent.npy']; main()"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("SourceNotFoundError: ")
    assert "absent.npy" in done.stderr
    assert "Traceback" not in done.stderr
