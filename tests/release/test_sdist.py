"""The sdist holds what a build needs, and nothing that running the tests left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from release_checkout import CACHES, Sdist


def contents(sdist: Sdist) -> set[str]:
    with tarfile.open(sdist.file) as archive:
        return {m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()}


def test_it_holds_every_source(sdist: Sdist) -> None:
    wanted = {"setup.py", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"}
    wanted |= {f"scripts/{name}" for name in ("embed_lua.py", "find_hiredis.py", "old_glibc.h")}
    wanted |= {"scripts/static_hiredis.py", "scripts/wheel_target.py"}
    wanted |= {name for name in sdist.checkout_before if name.startswith(("src/", "python/"))}
    assert not wanted - set(CACHES) - contents(sdist)


def test_it_holds_no_cache_and_no_build(sdist: Sdist) -> None:
    found = contents(sdist)
    assert not found & set(CACHES)
    assert not [name for name in found if "__pycache__" in name or name.endswith((".pyc", ".so"))]
    folders = {name.split("/")[0] for name in found if "/" in name}
    assert folders == {"python", "scripts", "src", "tests"}


def test_the_checkout_is_only_read(sdist: Sdist) -> None:
    assert sdist.checkout_after == sdist.checkout_before


@pytest.mark.slow
@pytest.mark.parametrize("without_redis", ["0", "1"])
def test_it_compiles_in_a_clean_folder(sdist: Sdist, tmp_path: Path, without_redis: str) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    environment = {
        **os.environ,
        "HEADWAY_WITHOUT_REDIS": without_redis,
        "HEADWAY_CFLAGS": "-O0",  # four times as fast, and the sources are the same
    }
    done = subprocess.run(
        [*command, "-w", str(tmp_path), str(sdist.file)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "unpacked")
    program = (
        "import headway, headway._core; print(headway._core.__file__);"
        "headway.Throttled(store='redis://127.0.0.1:1').limit('alice')"
    )
    asked = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "unpacked")},
        capture_output=True,
        text=True,
    )
    assert str(tmp_path) in asked.stdout
    assert ("without Redis (HEADWAY_WITHOUT_REDIS=1)" in asked.stderr) == (without_redis == "1")
