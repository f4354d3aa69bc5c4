"""The sdist holds what a build needs, and nothing that running the tests left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

CACHES = (
    "tests/__pycache__/test_a.cpython-311.pyc",
    "tests/.pytest_cache/v/cache/lastfailed",
    "tests/api/.hypothesis/examples/one",
    "python/headway/_core.cpython-311-x86_64-linux-gnu.so",
    "python/headway/__pycache__/clock.cpython-311.pyc",
    "build/generated/lua_scripts.h",
    "dist/headway-0.0.1.tar.gz",
    ".venv/lib/module.py",
)


def sdist_of(checkout: Path, into: Path) -> Path:
    command = [sys.executable, "scripts/wheels.py", "--sdist", str(into)]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(into.iterdir())


def contents(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as archive:
        return {m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()}


@pytest.fixture
def with_caches(checkout: Path) -> Path:
    for name in CACHES:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("left behind")
    return checkout


def test_it_holds_every_source(with_caches: Path, tmp_path: Path) -> None:
    found = contents(sdist_of(with_caches, tmp_path / "out"))
    wanted = {"setup.py", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"}
    wanted |= {f"scripts/{name}" for name in ("embed_lua.py", "find_hiredis.py", "old_glibc.h")}
    wanted |= {"scripts/static_hiredis.py", "scripts/wheel_target.py"}
    for folder in ("src", "python"):
        files = [p for p in (with_caches / folder).rglob("*") if p.is_file()]
        wanted |= {p.relative_to(with_caches).as_posix() for p in files}
    assert not wanted - set(CACHES) - found


def test_it_holds_no_cache_and_no_build(with_caches: Path, tmp_path: Path) -> None:
    found = contents(sdist_of(with_caches, tmp_path / "out"))
    assert not found & set(CACHES)
    assert not [name for name in found if "__pycache__" in name or name.endswith((".pyc", ".so"))]
    assert {name.split("/")[0] for name in found if "/" in name} == {
        "python",
        "scripts",
        "src",
        "tests",
    }


def test_the_checkout_is_only_read(checkout: Path, tmp_path: Path) -> None:
    before = {p for p in checkout.rglob("*") if "__pycache__" not in p.parts}
    sdist_of(checkout, tmp_path / "out")
    assert {p for p in checkout.rglob("*") if "__pycache__" not in p.parts} == before


@pytest.mark.slow
@pytest.mark.parametrize("without_redis", ["0", "1"])
def test_it_compiles_in_a_clean_folder(checkout: Path, tmp_path: Path, without_redis: str) -> None:
    sdist = sdist_of(checkout, tmp_path / "out")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    environment = {
        **os.environ,
        "HEADWAY_WITHOUT_REDIS": without_redis,
        "HEADWAY_CFLAGS": "-O0",  # four times as fast, and the sources are the same
    }
    done = subprocess.run(
        [*command, "-w", str(tmp_path), str(sdist)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "unpacked")
    program = (
        "import headway; print(headway.__file__);"
        "headway.RedisStore('redis://127.0.0.1:1', {'SOCKET_CONNECT_TIMEOUT': 1})"
    )
    asked = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "unpacked")},
        capture_output=True,
        text=True,
    )
    assert str(tmp_path) in asked.stdout
    assert ("without Redis (HEADWAY_WITHOUT_REDIS=1)" in asked.stderr) == (without_redis == "1")
