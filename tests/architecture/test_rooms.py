"""The rooms are as ARCHITECTURE.md draws them: dependencies point one way, no file is missing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = sorted((ROOT / "src/core").glob("*.[ch]"))
REDIS = sorted((ROOT / "src/redis").glob("*.[ch]"))
BINDING = sorted((ROOT / "src/python").glob("*.[ch]"))
PACKAGE = sorted((ROOT / "python/headway").rglob("*.py"))


def includes(path: Path) -> set[str]:
    return set(re.findall(r'^#include ["<]([^">]+)[">]', path.read_text(), re.MULTILINE))


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_the_core_includes_itself_and_the_system_only(path: Path) -> None:
    own = {other.name for other in CORE}
    for name in includes(path):
        assert name in own or not (ROOT / "src/python" / name).exists(), name
        assert not name.startswith("Python"), name


@pytest.mark.parametrize("path", BINDING, ids=lambda path: path.name)
def test_the_binding_reaches_down_by_public_headers(path: Path) -> None:
    private = {"store_lines.h"}
    assert not includes(path) & private


@pytest.mark.parametrize("path", REDIS, ids=lambda path: path.name)
def test_the_redis_room_stands_on_the_core_and_knows_no_python(path: Path) -> None:
    known = {other.name for other in [*CORE, *REDIS]} | {"lua_scripts.h"}
    for name in includes(path):
        assert name in known or not (ROOT / "src/python" / name).exists(), name
        assert name != "store_lines.h"
    assert not re.search(r"\bPy[A-Z_]", path.read_text())


def test_no_core_header_includes_in_a_circle() -> None:
    graph = {path.name: includes(path) for path in CORE if path.suffix == ".h"}

    def reach(name: str, seen: tuple[str, ...]) -> None:
        assert name not in seen, " -> ".join((*seen, name))
        for other in graph.get(name, set()):
            if other in graph:
                reach(other, (*seen, name))

    for name in graph:
        reach(name, ())


def test_only_the_binding_knows_python() -> None:
    for path in CORE:
        assert not re.search(r"\bPy[A-Z_]", path.read_text()), path.name


def test_every_file_of_the_core_is_on_the_page() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text()
    for stem in {path.stem for path in [*CORE, *REDIS]}:
        assert f"`{stem}`" in page or f"`{stem}.h`" in page, stem


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_shared_modules_do_not_import_the_applications(path: Path) -> None:
    """demo, replay and the command line stand on the library; it does not know them."""
    room = path.relative_to(ROOT / "python/headway").parts[0]
    if room in ("demo", "replay", "cli.py", "__main__.py"):
        return
    assert not re.search(
        r"^\s*(from|import) headway\.(demo|replay|cli)\b", path.read_text(), re.MULTILINE
    )
