"""The pages of docs/ keep their word: each Python block runs as it stands, alone, without a warning
on standard error, and prints what the page says.

Where a page says `localhost:6379`, an empty Redis server of the test stands in for it.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import pytest
from page_examples import Example, examples_of, unhurried

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
EXAMPLES = [example for page in PAGES for example in examples_of(page)]
REDIS = "localhost:6379"
EXTRAS = (
    "trio",
    "anyio",
    "uvloop",
    "celery",
    "httpx",
    "fastapi",
    "starlette",
    "flask",
    "django",
    "aiohttp",
    "mcp",
    "prometheus_client",
    "opentelemetry",
)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: f"{e.page} line {e.line}")
def test_an_example_of_a_page_prints_what_the_page_says(
    example: Example, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    for extra in EXTRAS:
        if example.imports(extra) and importlib.util.find_spec(extra) is None:
            pytest.skip(f"{extra} is not installed")
    if REDIS in example.code:
        server = request.getfixturevalue("own_server")
        example = replace(example, code=example.code.replace(REDIS, f"127.0.0.1:{server.port}"))
    done = example.run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    if example.output is not None:
        assert unhurried(done.stdout, example.output) == example.output


@pytest.mark.parametrize(
    "name", ["asyncio.md", "choked.md", "limiters.md", "redis.md", "sqlite.md"]
)
def test_a_page_opens_with_an_example_that_shows_its_output(name: str) -> None:
    assert examples_of(ROOT / "docs" / name)[0].output is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_links_to_exists(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert missing == []
