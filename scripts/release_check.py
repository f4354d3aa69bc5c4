"""Whether this checkout can be released as it is: one line for each check, 1 where one failed.

    .venv/bin/python scripts/release_check.py               everything; builds what is released
    .venv/bin/python scripts/release_check.py --quick       only what needs no build
    .venv/bin/python scripts/release_check.py --files DIST  takes the files of `make wheels` there

docs/releasing.md says what a person looks at besides.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pythons
from wheels_check import faults_of

ROOT = Path(__file__).resolve().parent.parent
PROCESSORS = ("x86_64", "aarch64")
# Debian has no headers of these for another processor; cibuildwheel builds them.
WITHOUT_AARCH64 = ("3.10", "3.12")


def project_line(name: str, root: Path = ROOT) -> str:
    """The value of one line of pyproject.toml. tomllib came with Python 3.11."""
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    match = re.search(rf'^{re.escape(name)} = "(.*?)"', text, re.MULTILINE)
    return match[1] if match else ""


def version_faults(root: Path = ROOT) -> Iterator[str]:
    version = project_line("version", root)
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    heading = re.search(r"^## (\S+)(?: \((.*)\))?$", changelog, re.MULTILINE)
    if heading is None or heading[1] != version:
        newest = heading[1] if heading else "nothing"
        yield f"the version is {version}, the newest heading of CHANGELOG.md is {newest}"
    elif not re.fullmatch(r"\d{4}-\d\d-\d\d", heading[2] or ""):
        yield f"CHANGELOG.md: the heading of {version} has no date: ## {version} (2026-01-31)"


def tag_faults() -> Iterator[str]:
    version = project_line("version")
    tagged = git("rev-list", "-n", "1", f"v{version}")
    if tagged and tagged != git("rev-parse", "HEAD"):
        yield f"the tag v{version} exists already, at another commit: raise the version"


def classifier_faults(root: Path = ROOT) -> Iterator[str]:
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    found = set(re.findall(r'"Programming Language :: Python :: 3\.(\d+)"', text))
    wanted = {str(minor) for minor in range(pythons.OLDEST, pythons.NEWEST + 1)}
    for minor in sorted(wanted ^ found, key=int):
        what = "lacks" if minor in wanted else "has"
        yield f"pyproject.toml {what} the classifier of Python 3.{minor} (scripts/pythons.py)"
    if project_line("requires-python", root) != f">=3.{pythons.OLDEST}":
        yield f"pyproject.toml: requires-python is not >=3.{pythons.OLDEST} (scripts/pythons.py)"


def tree_faults() -> Iterator[str]:
    changed = git("status", "--porcelain").splitlines()
    if changed:
        yield f"not committed: {', '.join(line[3:] for line in changed[:5])} ({len(changed)} files)"


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.rstrip() if done.returncode == 0 else ""


def build_faults(files: Path) -> Iterator[str]:
    """Builds the sdist and the wheels."""
    yield from step([sys.executable, "scripts/wheels.py", str(files)])


def missing_faults(files: Path) -> Iterator[str]:
    version = project_line("version")
    if not (files / f"headway-{version}.tar.gz").exists():
        yield f"there is no sdist of {version}"
    for minor in range(pythons.OLDEST, pythons.NEWEST + 1):
        for processor in PROCESSORS:
            if processor == "aarch64" and f"3.{minor}" in WITHOUT_AARCH64:
                continue
            pattern = f"headway-{version}-cp3{minor}-cp3{minor}-*_{processor}.whl"
            if not any(files.glob(pattern)):
                yield f"there is no wheel for Python 3.{minor} on {processor}"


def file_faults(files: Path) -> Iterator[str]:
    for file in released(files):
        yield from (f"{file.name}: {fault}" for fault in faults_of(file))


def released(files: Path) -> list[Path]:
    version = project_line("version")
    return sorted(files.glob(f"headway-{version}[-.]*"))


def metadata_faults(files: Path) -> Iterator[str]:
    names = [str(file) for file in released(files)]
    yield from step([sys.executable, "-m", "twine", "check", "--strict", *names])


def sdist_faults(files: Path) -> Iterator[str]:
    """Compiles the sdist in a folder of its own, with hiredis and without."""
    sdist = files / f"headway-{project_line('version')}.tar.gz"
    for without in ("0", "1"):
        with tempfile.TemporaryDirectory() as folder:
            options = ["--no-deps", "--no-build-isolation", "-q", "-w", folder]
            command = ["env", f"HEADWAY_WITHOUT_REDIS={without}", sys.executable, "-m", "pip"]
            yield from step([*command, "wheel", *options, str(sdist)])


def readme_faults() -> Iterator[str]:
    test = "tests/documents/test_readme.py"
    yield from step([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test])


def step(command: list[str]) -> Iterator[str]:
    """Nothing where the command succeeds, else the end of what it printed."""
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        yield "\n".join(done.stdout.strip().splitlines()[-20:]) or f"status {done.returncode}"


def report(name: str, faults: Iterator[str]) -> int:
    found = list(faults)
    print(f"{'FAILED' if found else 'ok    '}  {name}", flush=True)
    for fault in found:
        print("        " + fault.replace("\n", "\n        "), flush=True)
    return len(found)


def main(arguments: list[str]) -> int:
    failed = report("the version is that of CHANGELOG.md, which is dated", version_faults())
    failed += report("the version is not tagged yet", tag_faults())
    failed += report("classifiers are the supported Pythons", classifier_faults())
    failed += report("everything is committed", tree_faults())
    if arguments != ["--quick"]:
        failed += report("the README's examples print what it says", readme_faults())
        given = Path(arguments[1]).resolve() if arguments[:1] == ["--files"] else None
        files = given or Path(tempfile.mkdtemp(prefix="headway-release-"))
        try:
            if given is None:
                failed += report("the sdist and the wheels build", build_faults(files))
            failed += report("no file is missing", missing_faults(files))
            failed += report("the files are as users need them", file_faults(files))
            failed += report("their metadata is valid (twine check)", metadata_faults(files))
            failed += report("the sdist compiles, with and without hiredis", sdist_faults(files))
        finally:
            if given is None:
                shutil.rmtree(files)
    print("this can be released" if not failed else f"{failed} faults: not to be released")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
