"""Commands that headway prints for people work when they are pasted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from headway.commands.output import program


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A virtual environment's folder of programs that holds `headway`; not on PATH."""
    folder = tmp_path / "with space" / ".venv" / "bin"
    folder.mkdir(parents=True)
    (folder / "headway").write_text("#!/bin/sh\n")
    (folder / "headway").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.chdir(tmp_path)
    return folder


def test_its_name_where_the_path_leads_to_it(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(installed))
    assert program() == "headway"


def test_its_place_where_the_path_does_not(
    installed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert program() == "'with space/.venv/bin/headway'"
    monkeypatch.chdir(tmp_path / "with space")
    assert program() == ".venv/bin/headway"


def test_not_another_headway_that_the_path_leads_to(
    installed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "headway").write_text("#!/bin/sh\n")
    (other / "headway").chmod(0o755)
    monkeypatch.setenv("PATH", str(other))
    assert program() != "headway"


def test_the_module_where_there_is_no_program(installed: Path) -> None:
    (installed / "headway").unlink()
    assert program().endswith("python' -m headway")
