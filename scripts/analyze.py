"""Static analysis of the C core and of what talks to Redis, by gcc and by clang: `make analyze`.

    .venv/bin/python scripts/analyze.py

Every finding fails, unless scripts/analyzer-exceptions says in one line why it is none. So does a
line there that explains nothing any more. A source is analysed again when its preprocessed text
has changed: what was found is kept in build/analyze.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from find_hiredis import find

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "build" / "analyze"
EXCEPTIONS = ROOT / "scripts" / "analyzer-exceptions"
GENERATED = ROOT / "build" / "generated"
FLAGS = (
    *("-std=c11", "-D_GNU_SOURCE", "-pthread"),
    *("-Isrc/core", "-Isrc/redis", "-Ibuild/generated"),
)
ANALYZERS = {
    "gcc": ("-O1", "-fanalyzer"),
    # A third of clang's usual bound on what it follows in one function: a third of the time, and
    # the same findings here.
    "clang": (
        *("--analyze", "--analyzer-output", "text"),
        *("-Xclang", "-analyzer-config", "-Xclang", "max-nodes=75000"),
    ),
}
FOUND = re.compile(
    r"^(?P<file>[^:\s]+):(?P<line>\d+):\d+: warning: (?P<text>.*) \[(?P<check>[^]]+)\]$"
)


class Finding(NamedTuple):
    """What an analyzer has said of one line."""

    compiler: str
    file: str
    check: str
    line: str  # the source line, so that an exception outlives a change elsewhere in the file
    where: str
    text: str


class Excepted(NamedTuple):
    """One line of the file of exceptions."""

    compiler: str
    file: str
    check: str
    line: str
    reason: str

    def explains(self, finding: Finding) -> bool:
        return self[:3] == finding[:3] and self.line in finding.line


def exceptions() -> list[Excepted]:
    found = []
    for line in EXCEPTIONS.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        fields = [field.strip() for field in line.split(" | ")]
        if len(fields) != len(Excepted._fields) or not all(fields):
            raise SystemExit(f"{EXCEPTIONS.name}: a line has not the five fields: {line}")
        found.append(Excepted(*fields))
    return found


def findings(compiler: str, source: str, flags: tuple[str, ...]) -> list[Finding]:
    """Of one source; from the cache where its preprocessed text has been analysed before."""
    command = [compiler, *FLAGS, *flags, source]
    text = _output([*command, "-E", "-P"])
    version = _output([compiler, "--version"])
    key = hashlib.sha256(repr((version, ANALYZERS[compiler], text)).encode()).hexdigest()
    kept = CACHE / f"{compiler}-{source.replace('/', '-')}.json"
    if kept.exists():
        known = json.loads(kept.read_text())
        if known["key"] == key:
            return [Finding(*finding) for finding in known["findings"]]
    found = _parse(compiler, _output([*command, *ANALYZERS[compiler], "-c", "-o", os.devnull]))
    kept.write_text(json.dumps({"key": key, "findings": found}))
    return found


def _output(command: list[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout + done.stderr


def _parse(compiler: str, output: str) -> list[Finding]:
    found = set()
    for line in output.splitlines():
        if (match := FOUND.match(line)) is None:
            continue
        source = (ROOT / match["file"]).read_text().splitlines()[int(match["line"]) - 1].strip()
        check = match["check"].removeprefix("-W")
        where = f"{match['file']}:{match['line']}"
        found.add(Finding(compiler, match["file"], check, source, where, match["text"]))
    return sorted(found)


def main() -> int:
    compilers = [name for name in ANALYZERS if shutil.which(name)]
    if not compilers:
        print("neither gcc nor clang is installed")
        return 0
    CACHE.mkdir(parents=True, exist_ok=True)
    embed = [sys.executable, "scripts/embed_lua.py", str(GENERATED / "lua_scripts.h")]
    GENERATED.mkdir(parents=True, exist_ok=True)
    subprocess.run(embed, cwd=ROOT, check=True)
    hiredis = find()
    folders = ("src/core", "src/redis") if hiredis is not None else ("src/core",)
    flags = tuple(hiredis.compile) if hiredis is not None else ()
    sources = sorted(
        str(path.relative_to(ROOT)) for folder in folders for path in (ROOT / folder).glob("*.c")
    )
    jobs = [(compiler, source) for compiler in reversed(compilers) for source in sources]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        lists = pool.map(lambda job: findings(job[0], job[1], flags), jobs)
        found = {finding for one in lists for finding in one}
    known = exceptions()
    wrong = [f for f in sorted(found) if not any(e.explains(f) for e in known)]
    for f in wrong:
        print(f"{f.where}: {f.compiler}: {f.text} [{f.check}]\n    {f.line}")
    stale = [
        e
        for e in known
        if e.compiler in compilers and e.file in sources and not any(map(e.explains, found))
    ]
    for e in stale:
        print(f"{EXCEPTIONS.name}: {e.compiler} no longer finds this: {e.file}: {e.line}")
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = seconds.ru_utime + seconds.ru_stime
    print(
        f"{' and '.join(compilers)}: {len(sources)} files, {len(found) - len(wrong)} findings "
        f"explained, {len(wrong)} not, in {cpu:.0f} s of CPU"
    )
    return 1 if wrong or stale else 0


if __name__ == "__main__":
    sys.exit(main())
