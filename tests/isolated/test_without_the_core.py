"""What a Python for which headway was not built says: one sentence, and what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import headway

PACKAGE = Path(headway.__file__).parent


@pytest.fixture
def unbuilt(tmp_path: Path) -> Path:
    """The package with the compiled core of another Python in it."""
    folder = tmp_path / "headway"
    folder.mkdir()
    for path in PACKAGE.iterdir():
        if path.suffix != ".so":
            (folder / path.name).symlink_to(path)
    (folder / "_core.cpython-399-other.so").write_bytes(b"")
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-S", *arguments],
        env={"PYTHONPATH": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "code", ["from headway import Throttled", "from headway.throttled import Throttled"]
)
def test_an_import_says_which_python_it_was_built_for(unbuilt: Path, code: str) -> None:
    done = run(unbuilt, "-c", code)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: headway has no compiled core for this Python")
    assert "_core.cpython-399-other.so" in last
    assert f"{sys.executable} -m pip install headway" in last


def test_the_command_line_says_it_without_a_traceback(unbuilt: Path) -> None:
    done = run(unbuilt, "-m", "headway", "doctor")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "headway has no compiled core for this Python" in done.stderr


@pytest.mark.parametrize(
    ("version", "name"), [((3, 9, 1), "cpython"), ((3, 11, 4), "pypy")], ids=["old", "pypy"]
)
def test_an_interpreter_that_is_not_supported_is_named(version: tuple[int, ...], name: str) -> None:
    source = (PACKAGE / "__init__.py").read_text()
    check = source[source.index("import sys\n") : source.index("del sys\n")]

    class Sys:
        version_info = version
        executable = "/opt/python"

        class implementation:
            pass

    Sys.implementation.name = name  # type: ignore[attr-defined]
    with pytest.raises(ImportError) as caught:
        exec(check.replace("import sys\n", ""), {"sys": Sys})
    expected = f"this is {name} {version[0]}.{version[1]} at /opt/python."
    assert str(caught.value).endswith(expected)
    assert "headway needs CPython 3.10 or later" in str(caught.value)
