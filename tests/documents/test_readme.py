"""README.md keeps its word: each Python block runs as it stands, alone, and prints what the README
says.

Where the README says `localhost:6379`, an empty Redis server of the test stands in for it, and for
`shm:///limits` memory of another name.

A block that is followed directly by a block marked `text` must print exactly that text. Shell lines
are checked only as far as they can be without a network: every `make` target named exists.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from page_examples import unhurried

from headway._shm_store import path_of

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
REDIS = "localhost:6379"
SHARED = "shm:///limits"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    line: int
    code: str
    output: str | None


def examples() -> list[Example]:
    text = README.read_text(encoding="utf-8")
    fences = list(FENCE.finditer(text))
    found = []
    for i, fence in enumerate(fences):
        if fence[1] != "python":
            continue
        output = None
        if i + 1 < len(fences):
            after = fences[i + 1]
            if after[1] == "text" and not text[fence.end() : after.start()].strip():
                output = after[2]
        found.append(Example(text.count("\n", 0, fence.start()) + 1, fence[2], output))
    return found


@pytest.mark.parametrize("example", examples(), ids=lambda e: f"line {e.line}")
def test_a_readme_example_prints_what_the_readme_says(
    example: Example, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    code = example.code
    if REDIS in code:
        server = request.getfixturevalue("own_server")
        code = code.replace(REDIS, f"127.0.0.1:{server.port}")
    if SHARED in code:
        name = f"test-readme-{os.getpid()}"
        code = code.replace(SHARED, f"shm:///{name}")
        request.addfinalizer(lambda: path_of(name).unlink(missing_ok=True))
    program = tmp_path / "example.py"
    program.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, program],
        capture_output=True,
        encoding="utf-8",
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if example.output is not None:
        assert unhurried(done.stdout, example.output) == example.output


def test_the_first_example_of_the_readme_shows_its_output() -> None:
    assert examples()[0].output is not None


def test_every_make_target_that_the_readme_names_exists() -> None:
    text = README.read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|`)make ([a-z][a-z-]*)", text, re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    assert named
    assert named <= targets


def test_every_file_that_the_readme_links_to_exists() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README.read_text(encoding="utf-8"))
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert missing == []
