"""Checks finished wheels and the sdist: what a user's machine would trip over, or should not see.

    python scripts/wheels_check.py dist/*

One line for each fault; silent and 0 when there is none.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MOST_BYTES = 1_500_000
# glibc 2.17 is of 2012: every distribution that has a supported Python has a later one.
TAG = "manylinux_2_17"
# glibc's. The loader is named where a module has thread-local variables.
LOADERS = {"ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
SYSTEM_LIBRARIES = {"libc.so.6", "libm.so.6", "libpthread.so.0", *LOADERS}
# A sentence of hiredis: it is inside the module.
HIREDIS = b"Protocol error, got %s as reply type byte"


def faults_of(path: Path) -> Iterator[str]:
    """Sentences on what is wrong with one file."""
    if path.name.endswith(".tar.gz"):
        yield from _faults_of_sdist(path)
    else:
        yield from _faults_of_wheel(path)


def _faults_of_sdist(path: Path) -> Iterator[str]:
    with tarfile.open(path) as archive:
        for member in archive.getmembers():
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None:
                yield from _local_paths(member.name, content.read())
            if re.search(r"__pycache__|\.pyc$|\.so$|\.pytest_cache|\.hypothesis", member.name):
                yield f"{member.name} is a cache or a build"


def _faults_of_wheel(path: Path) -> Iterator[str]:
    size = path.stat().st_size
    if size > MOST_BYTES:
        yield f"it has {size:,} bytes, more than {MOST_BYTES:,}"
    if TAG not in path.name:
        yield f"it is not tagged {TAG} (which symbol is too new: auditwheel show -v {path.name})"
    with zipfile.ZipFile(path) as archive:
        modules = [name for name in archive.namelist() if name.endswith(".so")]
        if len(modules) != 1:
            yield f"it has {len(modules)} compiled modules, expected 1: {modules}"
        for name in archive.namelist():
            yield from _local_paths(name, archive.read(name))
        for name in modules:
            yield from _faults_of_module(archive.read(name))


def _local_paths(name: str, content: bytes) -> Iterator[str]:
    """The folders of this machine in a file. /tmp itself is a name that programs know."""
    folders = {str(ROOT), sys.prefix, sys.base_prefix, str(Path.home())} - {"/", "/usr", "/root"}
    patterns = [re.escape(folder) + r"\b" for folder in sorted(folders)]
    patterns += [r"/root/", re.escape(tempfile.gettempdir()) + r"/headway-wheels-"]
    found = re.search("|".join(patterns).encode(), content)
    if found:
        line = content[found.start() : found.end() + 60].split(b"\n")[0].split(b"\0")[0]
        yield f"{name} has a path of this machine: {line.decode(errors='replace')}"


def _faults_of_module(content: bytes) -> Iterator[str]:
    if HIREDIS not in content:
        yield "hiredis is not inside the module"
    with tempfile.NamedTemporaryFile(suffix=".so") as file:
        file.write(content)
        file.flush()
        dynamic = _readelf("--dynamic", file.name)
        sections = _readelf("--sections", file.name)
        symbols = _readelf("--dyn-syms", file.name)
    needed = set(re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic))
    for library in sorted(needed - SYSTEM_LIBRARIES):
        yield f"the module needs {library}, which a user's machine may lack"
    for path in re.findall(r"\((?:RPATH|RUNPATH)\).*\[(.+)\]", dynamic):
        yield f"the module looks for libraries in {path}"
    for section in re.findall(r"\s(\.symtab|\.debug_\w+)\s", sections):
        yield f"the module is not stripped: it has {section}"
    exported = re.findall(r"(?:FUNC|OBJECT)\s+(?:GLOBAL|WEAK)\s+DEFAULT\s+\d+\s+(\S+)", symbols)
    for name in sorted(set(exported) - {"PyInit__core"}):
        yield f"the module exports {name}, which may clash with another library's"
    # A symbol of the C library has a version where its library is named. Without one it would be
    # found only as long as the interpreter happens to be linked with that library.
    undefined = re.findall(r"GLOBAL\s+DEFAULT\s+UND\s+(\S+)$", symbols, re.MULTILINE)
    for name in sorted(n for n in undefined if "@" not in n and not re.match("_?Py", n)):
        yield f"the module uses {name} and names no library that has it"


def _readelf(option: str, file: str) -> str:
    command = ["readelf", "--wide", option, file]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main(arguments: list[str]) -> int:
    faults = [f"{a}: {fault}" for a in arguments for fault in faults_of(Path(a))]
    for line in faults:
        print(line)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
