"""What a machine that lacks something is told during set-up: one sentence, and what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """A folder for programs that stand in for those of another machine."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


def put(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def find_python(path: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/bash", SCRIPTS / "find-python"],
        env={"PATH": path, "HOME": "/nonexistent", **environment},
        capture_output=True,
        text=True,
    )


class TestFindingAPython:
    def test_one_that_is_too_new_is_named_with_its_version(self, fake: Path) -> None:
        put(fake, "python3", "echo 3.99")
        done = find_python(str(fake))
        assert done.returncode == 1
        assert "python3 here is Python 3.99" in done.stderr
        assert "3.10 to 3.15" in done.stderr

    def test_none_at_all(self, fake: Path) -> None:
        done = find_python(str(fake))
        assert done.returncode == 1
        assert "found no Python" in done.stderr

    def test_an_old_one_first_on_path_is_passed_over(self, fake: Path) -> None:
        put(fake, "python3", "echo 3.8")
        put(fake, "python3.12", "echo 3.12")
        assert find_python(str(fake)).stdout.strip() == str(fake / "python3.12")

    def test_a_launcher_for_a_version_that_is_not_there_is_passed_over(self, fake: Path) -> None:
        put(fake, "python3", "exit 1")
        put(fake, "python3.10", "echo 3.10")
        assert find_python(str(fake)).stdout.strip() == str(fake / "python3.10")

    def test_the_one_that_is_asked_for_is_not_replaced_by_another(self, fake: Path) -> None:
        put(fake, "python3", "echo 3.12")
        put(fake, "old", "echo 3.9")
        done = find_python(str(fake), PYTHON=str(fake / "old"))
        assert done.returncode == 1
        assert f"PYTHON={fake / 'old'} is Python 3.9" in done.stderr


class TestFindingHiredis:
    """The C tests, setup.py and bootstrap.py ask one module: they cannot disagree."""

    def ask(self, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, SCRIPTS / "find_hiredis.py"],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )

    def test_the_answer_without_pkg_config_links_as_well(self) -> None:
        assert self.ask().returncode == self.ask(PKG_CONFIG="/nonexistent/pkg-config").returncode

    def test_none_is_found_where_none_is_wanted(self) -> None:
        done = self.ask(HEADWAY_WITHOUT_REDIS="1")
        assert (done.returncode, done.stdout) == (1, "")

    def test_a_pkg_config_that_knows_no_hiredis_is_not_the_last_word(self, fake: Path) -> None:
        put(fake, "pkg-config", "exit 1")
        assert self.ask(PKG_CONFIG=str(fake / "pkg-config")).returncode == self.ask().returncode

    def test_a_compiler_that_finds_no_header_means_there_is_none(self, fake: Path) -> None:
        put(fake, "cc", "exit 1")
        assert self.ask(CC=str(fake / "cc")).returncode == 1

    def test_the_makefile_and_setup_ask_it(self) -> None:
        root = SCRIPTS.parent
        for name in ("Makefile", "setup.py", "scripts/bootstrap.py"):
            text = (root / name).read_text()
            assert "find_hiredis" in text, name
            assert "pkg-config" not in text, name


class TestWhatPipSaid:
    @pytest.mark.parametrize(
        ("output", "sentence"),
        [
            (
                "WARNING: Retrying (Retry(total=0)) after connection broken by "
                "'NewConnectionError('<...>: Failed to establish a new connection')'\n"
                "ERROR: No matching distribution found for rich>=13",
                "this step needs the network",
            ),
            (
                "ERROR: Could not install packages: [Errno 28] No space left on device",
                "disk is full",
            ),
            ("OSError: [Errno 30] Read-only file system: '/x'", "cannot be written"),
            ("SSLError(SSLCertVerificationError(1, 'certificate verify failed'))", "PIP_CERT"),
        ],
    )
    def test_a_known_reason_is_one_sentence(self, output: str, sentence: str) -> None:
        from install import complaint

        said = complaint("rich>=13", output)
        assert said.startswith("Could not install rich>=13: ")
        assert sentence in said
        assert "\n" not in said

    def test_an_unknown_reason_is_shown_in_pips_words(self) -> None:
        from install import complaint

        said = complaint("rich>=13", "ERROR: a thing that nobody foresaw\n")
        assert "a thing that nobody foresaw" in said

    def test_no_way_to_the_index_ends_in_one_sentence_and_no_traceback(self) -> None:
        done = subprocess.run(
            [sys.executable, SCRIPTS / "install.py", "no-such-package-for-headway-tests"],
            env={
                **os.environ,
                "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
                "PIP_CONFIG_FILE": os.devnull,
                "PIP_RETRIES": "0",
            },
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "this step needs the network" in done.stderr


class TestPreparingTheMachine:
    def test_what_is_missing_is_named_with_its_package(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import bootstrap

        monkeypatch.setenv("CC", "/nonexistent/cc")
        said = bootstrap.complaint([bootstrap.missing()["compiler"]])
        assert said == (
            "headway cannot be built without a C compiler (/nonexistent/cc): on Debian and Ubuntu, "
            "sudo apt-get install build-essential."
        )

    def test_several_things_are_one_sentence_and_one_command(self) -> None:
        from bootstrap import Lack, complaint

        said = complaint(
            [Lack("a compiler", "gcc"), Lack("hiredis", "libhiredis-dev", "do without")]
        )
        assert said == (
            "headway cannot be built without a compiler and hiredis: on Debian and Ubuntu, "
            "sudo apt-get install gcc libhiredis-dev; do without."
        )

    def test_another_pythons_headers_do_not_come_from_apt(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        import bootstrap

        monkeypatch.setattr(bootstrap.sysconfig, "get_path", lambda name: str(tmp_path))
        monkeypatch.setattr(bootstrap.sys, "base_prefix", "/opt/python")
        lack = bootstrap.missing()["headers"]
        assert "make PYTHON=/usr/bin/python3" in bootstrap.complaint([lack])
        assert lack.package == ""

    def test_a_folder_that_cannot_be_written(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        import bootstrap

        monkeypatch.setattr(bootstrap.os, "access", lambda path, mode: False)
        with pytest.raises(SystemExit) as left:
            bootstrap.require_writable(tmp_path)
        assert left.value.code == bootstrap.CANNOT
        assert "copy the checkout to a folder of yours" in capsys.readouterr().err

    def test_an_environment_that_was_left_half_made_is_made_anew(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        import bootstrap

        monkeypatch.setattr(bootstrap, "TOOLS_CHECK", "")  # newer tools would need the network
        where = tmp_path / "with spaces é" / ".venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", where], check=True)
        assert not bootstrap.runs(where / "bin" / "python", "import pip")
        bootstrap.make_environment(where)
        assert bootstrap.runs(where / "bin" / "python", "import pip")


class TestAFullDisk:
    def test_is_named_with_what_is_free_and_what_is_needed(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        import disk

        monkeypatch.setattr(
            disk.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 3 << 20})
        )
        said = disk.complaint_about_space(tmp_path)
        assert said.startswith(f"only 3 MB are free in {tmp_path}")
        assert "a build needs" in said

    def test_is_no_reason_where_there_is_room(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        import disk

        monkeypatch.setattr(
            disk.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1 << 40})
        )
        assert disk.complaint_about_space(tmp_path) == ""

    def test_a_module_that_cannot_be_loaded_is_removed(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        import build

        package = tmp_path / "python" / "headway"
        package.mkdir(parents=True)
        module = package / "_core.cpython-311-x86_64-linux-gnu.so"
        module.write_bytes(b"cut short")
        monkeypatch.setattr(build, "ROOT", tmp_path)
        monkeypatch.setattr(build, "COMPILE", ["true"])
        monkeypatch.setattr(build, "LOAD", ["false"])
        assert build.build() != 0
        assert not module.exists()
