"""Fetches packages of any Debian release and processor and unpacks them into a folder, without
installing anything: headers of Pythons that this machine lacks, libraries of another processor, or
a whole small system of it.

apt-get works with folders of its own for this, so it needs no root and leaves the machine's package
lists alone. What was fetched is kept in ~/.cache/headway/debian.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

CACHE = Path.home() / ".cache" / "headway"
KEYRING = "/usr/share/keyrings/debian-archive-keyring"


class FetchError(Exception):
    """Something could not be fetched; the message says what to do."""


def mirror() -> str:
    """The mirror that this machine's apt uses; HEADWAY_DEBIAN_MIRROR names another."""
    wish = os.environ.get("HEADWAY_DEBIAN_MIRROR")
    if wish:
        return wish
    ask = ["apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI)", "Created-By: Packages"]
    if shutil.which("apt-get"):
        for line in subprocess.run(ask, capture_output=True, text=True).stdout.splitlines():
            origin, _, uri = line.partition(" ")
            if origin == "Debian" and "security" not in uri:
                return uri
    raise FetchError(
        "This machine's apt knows no Debian mirror: name one in HEADWAY_DEBIAN_MIRROR, or run "
        "`sudo apt-get update` first."
    )


class Release:
    """One Debian release for one processor: bookworm and arm64."""

    def __init__(self, suite: str, architecture: str) -> None:
        self.name = f"{suite}-{architecture}"
        self.suite, self.architecture = suite, architecture
        self.folder = CACHE / "debian" / self.name

    def fetch(self, packages: Sequence[str], *, with_dependencies: bool = False) -> Path:
        """A folder that holds the packages' files below usr/; fetched the first time only."""
        target = self.folder / "+".join(packages)
        if target.is_dir():
            return target
        fresh = target.with_name(f"{target.name}.{os.getpid()}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        downloads = fresh.with_suffix(".debs")
        try:
            self._download(packages, downloads, with_dependencies)
            fresh.mkdir(parents=True)
            for package in sorted(downloads.rglob("*.deb")):
                self._run(["dpkg-deb", "-x", str(package), str(fresh)], f"unpack {package.name}")
            fresh.rename(target)
        finally:
            shutil.rmtree(downloads, ignore_errors=True)
            shutil.rmtree(fresh, ignore_errors=True)
        return target

    def _download(self, packages: Sequence[str], into: Path, with_dependencies: bool) -> None:
        state = self.folder / "apt"
        for folder in (state / "lists" / "partial", into / "partial"):
            folder.mkdir(parents=True, exist_ok=True)
        (state / "status").touch()
        keyring = next((KEYRING + e for e in (".gpg", ".pgp") if Path(KEYRING + e).exists()), None)
        if keyring is None:
            raise FetchError(
                "Debian's keys are missing: sudo apt-get install debian-archive-keyring."
            )
        (state / "sources.list").write_text(
            f"deb [signed-by={keyring}] {mirror()} {self.suite} main\n"
        )
        settings = {
            "Dir::State": state,
            "Dir::State::status": state / "status",
            "Dir::Cache": state,
            "Dir::Cache::archives": into,
            "Dir::Etc::sourcelist": state / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "APT::Architecture": self.architecture,
            "APT::Architectures": self.architecture,
            "APT::Sandbox::User": "",  # what root fetches may lie where _apt cannot look
            "Acquire::Languages": "none",
            "Acquire::Check-Valid-Until": "false",  # a mirror may be some weeks behind
        }
        options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
        what = f"fetch {' '.join(packages)} of Debian {self.suite} for {self.architecture}"
        self._run(["apt-get", *options, "-qq", "update"], what)
        if with_dependencies:
            install = ["install", "-y", "--download-only", "--no-install-recommends"]
            self._run(["apt-get", *options, "-qq", *install, *packages], what)
        else:
            self._run(["apt-get", *options, "-qq", "download", *packages], what, into)

    def _run(self, command: Sequence[str], what: str, folder: Path | None = None) -> None:
        if shutil.which(command[0]) is None:
            raise FetchError(f"Cannot {what}: this machine has no {command[0]}.")
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        # apt-get update ends with 0 where it reached nothing, and says so in lines with W: or E:.
        lost = [line for line in done.stderr.splitlines() if "Failed to fetch" in line]
        if done.returncode != 0 or lost:
            why = (lost or done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise FetchError(f"Cannot {what}, which needs the network and room on the disk: {why}")
