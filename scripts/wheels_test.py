"""Installs each wheel into a fresh environment of a bare system, and runs the smoke test and the
fast tests there.

    sudo .venv/bin/python scripts/wheels_test.py [FOLDER]        the wheels in dist, or FOLDER
    sudo .venv/bin/python scripts/wheels_test.py --smoke [FOLDER]  the smoke test alone
    WHEELS="3.14 3.11-aarch64"                                   these alone

The Redis server is this machine's, so that the bare system stays without hiredis. arm64 runs the
smoke test alone: emulated, the fast tests would take an hour.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wheels import copy_of_checkout
from wheels_bare import Bare, Emulated, SystemError_
from wheels_debs import FetchError
from wheels_targets import SUITES, all_pythons

# $1: a Python. What is only needed for `headway serve` may lack a wheel for the newest Python.
INSTALL = """
set -e
rm -rf /opt/try && "$PYTHON" -m venv /opt/try
/opt/try/bin/pip install -q --disable-pip-version-check --no-index --no-deps /wheels/"$WHEEL"
"""
EXTRAS = """
pip="/opt/try/bin/pip install -q --disable-pip-version-check --only-binary :all:"
$pip "headway[serve]" >/tmp/serve.log 2>&1 || tail -n 1 /tmp/serve.log
"""
SMOKE = "cd /tmp && /opt/try/bin/python /checkout/scripts/smoke.py"
FAST = """
$pip "headway[test-fast]" && cd /checkout &&
marks='not slow and not alone'
/opt/try/bin/python -m pytest -q -n auto -p no:cacheprovider -r fE -m "$marks" $FOLDERS
"""
# The tests that need headway and the extra test-fast alone, and no sources.
FAST_FOLDERS = (
    "tests/api",
    "tests/asyncio_waiting",
    "tests/choked",
    "tests/faults",
    "tests/limiters",
    "tests/properties",
    "tests/shm",
    "tests/smartratelimit",
    "tests/sqlite",
    "tests/threads",
)
Outcome = tuple[bool, list[str]]


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """The URL of a server on a free port; ends with the block."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        raise SystemError_("no redis-server here: sudo apt-get install redis-server.")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    options = ["--port", str(port), "--save", "", "--dir", str(folder)]
    with subprocess.Popen([program, *options], stdout=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline and server.poll() is None:
                with socket.socket() as client:
                    if client.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.02)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()


def python_of(wheel: Path) -> tuple[str, str]:
    """'3.13t', 'aarch64'"""
    match = re.fullmatch(
        r"headway-[^-]+-cp3\d+-cp3(\d+t?)-\S*manylinux\S*?_(x86_64|aarch64)\.whl", wheel.name
    )
    if match is None:
        raise SystemError_(f"{wheel.name} is not the name of a manylinux wheel of headway.")
    return f"3.{match[1]}", match[2]


def system_for(version: str, machine: str) -> tuple[Bare | Emulated, str, dict[Path, str]]:
    """A system, the Python in it, and folders of this machine that it needs."""
    if machine != os.uname().machine:
        if version not in SUITES:
            raise SystemError_("no Debian release has this Python for arm64.")
        return Emulated(SUITES[version], version), f"/usr/bin/python{version}", {}
    if version in SUITES:
        return Bare(SUITES[version]), f"/usr/bin/python{version}", {}
    here = all_pythons()
    if version not in here:
        raise SystemError_("no Debian release has this Python, and this machine has none.")
    program = here[version]
    prefix = subprocess.run(
        [program, "-c", "import sys; print(sys.base_prefix)"], capture_output=True, text=True
    ).stdout.strip()
    return Bare("bookworm"), str(program), {Path(prefix): prefix}


def try_wheel(wheel: Path, checkout: Path, redis: str, scratch: Path, only_smoke: bool) -> Outcome:
    version, machine = python_of(wheel)
    system, python, binds = system_for(version, machine)
    system.prepare()
    fast = not only_smoke and not isinstance(system, Emulated)
    environment = {"PYTHON": python, "WHEEL": wheel.name, "HEADWAY_SMOKE_REDIS": redis}
    place = scratch / f"{version}-{machine}"
    place.mkdir()
    binds = {**binds, wheel.parent: "/wheels", checkout: "/checkout", place: "/opt"}
    folders = " ".join(FAST_FOLDERS)
    script = INSTALL + EXTRAS + f"set -o pipefail\n{SMOKE} || exit 1\n"
    if fast:
        script += FAST.replace("$FOLDERS", folders)
    done = system.run(script, binds, environment)
    shutil.rmtree(place, ignore_errors=True)
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0:
        smoke = [line for line in lines if line.startswith(("smoke test", "  ok", "  left"))]
        return True, smoke + (lines[-1:] if fast else [])
    return False, lines[-60:]


def main(arguments: list[str]) -> int:
    # A shell starts its background jobs with SIGINT ignored. Tests of Ctrl-C would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    only_smoke = arguments[:1] == ["--smoke"]
    folder = Path([*arguments, "dist"][int(only_smoke)]).resolve()
    wishes = os.environ.get("WHEELS", "").split()
    wheels = sorted(folder.glob("headway-*.whl"))
    if not wheels:
        print(f"There are no wheels in {folder}: make wheels", file=sys.stderr)
        return 1
    passed = failed = 0
    with tempfile.TemporaryDirectory(prefix="headway-try-") as name:
        scratch = Path(name)
        checkout = copy_of_checkout(scratch / "checkout")
        # What is tried is the wheel: the sources of the package must not be there to be imported.
        for folder_name in ("python", "src"):
            shutil.rmtree(checkout / folder_name, ignore_errors=True)
        with redis_server(scratch) as redis:
            for wheel in wheels:
                version, machine = python_of(wheel)
                if wishes and version not in wishes and f"{version}-{machine}" not in wishes:
                    continue
                try:
                    good, lines = try_wheel(wheel, checkout, redis, scratch, only_smoke)
                except (SystemError_, FetchError) as error:
                    print(f"NOT TRIED  {wheel.name}: {error}", flush=True)
                    failed += 1
                    continue
                passed, failed = passed + good, failed + (not good)
                print(f"{'ok    ' if good else 'FAILED'}  {wheel.name}", flush=True)
                print(*(f"    {line}" for line in lines), sep="\n", flush=True)
    print(f"{passed} wheels passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
