"""The Python examples of a page of Markdown, and how to run one.

A block marked `python` is a program of its own. A block marked `text` that follows it directly is
what the program prints.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

TOOK = re.compile(r"\b\d+\.\d(?= s\b)")
LEFT = re.compile(r"\b\d+(?= seconds\b)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    """One program, and what it prints if the page says so."""

    page: str
    line: int
    code: str
    output: str | None

    def imports(self, module: str) -> bool:
        """Whether it has a line that imports `module`."""
        return re.search(rf"^(import|from) {module}\b", self.code, re.MULTILINE) is not None

    def run(self, folder: Path) -> subprocess.CompletedProcess[str]:
        """Runs it in a process of its own, in an empty folder."""
        program = folder / "example.py"
        program.write_text(self.code, encoding="utf-8")
        return subprocess.run(
            [sys.executable, program],
            capture_output=True,
            encoding="utf-8",
            cwd=folder,
            timeout=60,
            check=False,
        )


def unhurried(printed: str, documented: str) -> str:
    """What was printed, with the documented durations instead of those that only a busy machine
    explains: "0.3 s" that something took may be more, "30 seconds" that are left may be fewer.
    """

    def as_documented(text: str, durations: re.Pattern[str], sign: int) -> str:
        usual = iter(durations.findall(documented))

        def duration(found: re.Match[str]) -> str:
            said = next(usual, found[0])
            return said if sign * float(found[0]) >= sign * float(said) else found[0]

        return durations.sub(duration, text)

    return as_documented(as_documented(printed, TOOK, 1), LEFT, -1)


def examples_of(page: Path) -> list[Example]:
    """The examples of a page, in order."""
    text = page.read_text(encoding="utf-8")
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
        line = text.count("\n", 0, fence.start()) + 1
        found.append(Example(page.name, line, fence[2], output))
    return found
