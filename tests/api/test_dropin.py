"""Programs written for the documents' own packages run unchanged, installed or started by us.

Each test is a program in an interpreter of its own: what is imported there stays there.
"""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

RunPython = Callable[..., str]


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `python -m headway.dropin ARGS` in an empty folder."""

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "headway.dropin", *args],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


class TestInstall:
    def test_the_mirrors_take_the_names_of_the_documents(self, run_python: RunPython) -> None:
        run_python("""
            import headway.throttled
            from headway import dropin
            dropin.install()
            import throttled, throttled.store, throttled.rate_limiter as limits
            from throttled import RateLimiterType, Throttled, exceptions, rate_limiter, store, utils
            from throttled.exceptions import LimitedError
            assert throttled is headway.throttled
            assert throttled.store is headway.store is store
            assert limits is headway.rate_limiter
            assert LimitedError is headway.LimitedError
            import src.rate_limiter.token_bucket
            from src.rate_limiter.exceptions import RateLimitExceeded
            from src import rate_limiter as ours
            assert src.rate_limiter is ours is headway.rate_limiter
            assert src.rate_limiter.token_bucket.TokenBucket is headway.TokenBucket
        """)

    def test_choked_and_limiters_take_their_names(self, run_python: RunPython) -> None:
        run_python("""
            import headway.choked, headway.limiters
            from headway import dropin
            dropin.install()
            import choked, limiters
            assert choked is headway.choked and limiters is headway.limiters
            from choked import Choked, choked
            from limiters import AsyncSemaphore, MaxSleepExceededError
            from limiters.exceptions import MaxSleepExceededError as same
            assert AsyncSemaphore is headway.limiters.AsyncSemaphore
            assert MaxSleepExceededError is same
            dropin.uninstall("choked", "limiters")
            import sys
            left = [name for name in sys.modules if name.split(".")[0] in ("choked", "limiters")]
            assert left == [], left
        """)

    def test_smartratelimit_takes_its_name_with_its_modules(self, run_python: RunPython) -> None:
        run_python("""
            import headway.smartratelimit
            from headway import dropin
            dropin.install("smartratelimit")
            import smartratelimit
            assert smartratelimit is headway.smartratelimit
            from smartratelimit import LimitDimension, RateLimitExceeded, RetryConfig
            from smartratelimit.metrics import MetricsCollector
            from smartratelimit.models import RateLimitStatus, TokenBucket
            from smartratelimit.providers import get_provider
            from smartratelimit.retry import RetryHandler, RetryStrategy
            from smartratelimit.simulate import Budget, simulate
            assert smartratelimit.MetricsCollector is MetricsCollector
            assert smartratelimit.RateLimitStatus is RateLimitStatus
        """)

    def test_the_asyncio_package_takes_its_names(self, run_python: RunPython) -> None:
        run_python("""
            import headway.asyncio
            from headway import dropin
            dropin.install("throttled")
            import throttled, throttled.asyncio, throttled.asyncio.rate_limiter as limits
            from throttled.asyncio import Throttled, exceptions, hooks, rate_limiter, store, utils
            assert Throttled is headway.asyncio.Throttled is not throttled.Throttled
            assert limits is rate_limiter is headway.asyncio.rate_limiter
            assert throttled.asyncio.store is throttled.store
            assert throttled.asyncio.hooks.Hook is hooks.Hook is not throttled.hooks.Hook
        """)

    def test_only_the_names_asked_for_are_installed(self, run_python: RunPython) -> None:
        run_python("""
            import sys
            from headway import dropin
            dropin.install("src.rate_limiter")
            assert "src.rate_limiter" in sys.modules
            assert "throttled" not in sys.modules
        """)

    def test_installing_twice_changes_nothing(self, run_python: RunPython) -> None:
        run_python("""
            import sys
            from headway import dropin
            dropin.install()
            before = dict(sys.modules)
            dropin.install("throttled")
            dropin.install()
            assert {name: sys.modules[name] for name in before} == before
        """)

    def test_uninstall_takes_the_names_away(self, run_python: RunPython) -> None:
        run_python("""
            import sys
            sys.path.remove("")  # where this runs may hold a src of its own, which would stay
            from headway import dropin
            dropin.install()
            dropin.uninstall()
            left = [name for name in sys.modules if name.split(".")[0] in ("throttled", "src")]
            assert left == [], left
            dropin.uninstall()
            dropin.install()
            import src.rate_limiter.token_bucket
        """)

    def test_a_real_package_that_was_imported_before_is_not_replaced(
        self, run_python: RunPython, tmp_path: Path
    ) -> None:
        (tmp_path / "throttled.py").write_text("mine = True")
        run_python(
            """
            import sys
            sys.path.insert(0, sys.argv[1])
            import throttled
            from headway import SetUpError, dropin
            try:
                dropin.install()
            except SetUpError as error:
                assert "'throttled' was already imported from" in str(error), error
            else:
                raise AssertionError("installed over it")
            assert throttled.mine and sys.modules["throttled"] is throttled
            assert "src.rate_limiter" not in sys.modules
            """,
            str(tmp_path),
        )

    def test_a_src_package_of_the_program_stays(
        self, run_python: RunPython, tmp_path: Path
    ) -> None:
        (tmp_path / "src").mkdir()
        (tmp_path / "src" / "__init__.py").write_text("mine = True")
        (tmp_path / "src" / "other.py").write_text("value = 7")
        run_python(
            """
            import sys
            sys.path.insert(0, sys.argv[1])
            from headway import dropin
            dropin.install()
            import src, src.other, src.rate_limiter.token_bucket
            assert src.mine and src.other.value == 7
            assert src.rate_limiter.token_bucket.TokenBucket
            dropin.uninstall()
            assert sys.modules["src"] is src and not hasattr(src, "rate_limiter")
            """,
            str(tmp_path),
        )

    def test_a_src_folder_that_joins_the_path_later_is_found(
        self, run_python: RunPython, tmp_path: Path
    ) -> None:
        (tmp_path / "src").mkdir()
        (tmp_path / "src" / "other.py").write_text("value = 7")
        run_python(
            """
            import sys
            sys.path.remove("")
            from headway import dropin
            dropin.install()
            sys.path.insert(0, sys.argv[1])
            from src.other import value
            assert value == 7
            """,
            str(tmp_path),
        )

    def test_an_unknown_name_lists_the_known_ones(self, run_python: RunPython) -> None:
        printed = run_python("""
            from headway import SetUpError, dropin
            try:
                dropin.install("flask")
            except SetUpError as error:
                print(error)
        """)
        assert "'flask'" in printed
        assert "throttled, choked, limiters, smartratelimit, src.rate_limiter" in printed


class TestMirror:
    def test_every_public_name_of_the_asyncio_package_is_there(self, run_python: RunPython) -> None:
        run_python("""
            import headway.asyncio, headway.throttled.asyncio as mirror
            assert mirror.Throttled is headway.asyncio.Throttled
            assert all(hasattr(mirror, name) for name in headway.asyncio.__all__)
            sync = set(headway.throttled.__all__)
            assert sync <= set(headway.asyncio.__all__), sync - set(headway.asyncio.__all__)
            import headway.throttled.asyncio.hooks, headway.throttled.asyncio.store
        """)

    def test_the_stores_of_the_mirror_are_those_of_headway(self) -> None:
        import headway.store
        from headway.throttled import store

        assert store.RedisStore is headway.store.RedisStore
        assert issubclass(store.MemoryStore, store.BaseStore)

    def test_every_public_name_is_there(self, run_python: RunPython) -> None:
        run_python("""
            import headway
            for name in headway.__all__:
                assert getattr(headway, name) is not None
            assert set(headway.__all__) <= set(dir(headway))
            from headway import *
            assert Throttled and rate_limiter.per_sec(1)
            from headway.throttled import *
            import headway.throttled as mirror
            assert all(hasattr(mirror, name) for name in mirror.__all__)
            try:
                headway.nothing
            except AttributeError as error:
                assert "'nothing'" in str(error)
            else:
                raise AssertionError
        """)

    def test_importing_headway_loads_next_to_nothing(self, run_python: RunPython) -> None:
        run_python("""
            import sys
            before = set(sys.modules)
            import headway
            loaded = set(sys.modules) - before
            assert loaded == {"headway"}, loaded
        """)


class TestCommand:
    def test_a_script_runs_with_its_arguments(
        self, command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
    ) -> None:
        folder = tmp_path / "folder"
        folder.mkdir()
        (folder / "beside.py").write_text("value = 'beside'")
        (folder / "script.py").write_text(
            "import sys, beside, throttled\n"
            "assert __name__ == '__main__'\n"
            "print(sys.argv, beside.value, throttled.__name__)\n"
            "sys.exit(7)\n"
        )

        done = command("throttled", "--", "folder/script.py", "a", "--", "-b")

        assert done.stderr == ""
        assert done.stdout == "['folder/script.py', 'a', '--', '-b'] beside headway.throttled\n"
        assert done.returncode == 7

    @pytest.mark.parametrize("start", [["--", "-m"], ["src.rate_limiter", "-m"]])
    def test_a_module_runs_with_its_arguments(
        self,
        start: list[str],
        command: Callable[..., subprocess.CompletedProcess[str]],
        tmp_path: Path,
    ) -> None:
        (tmp_path / "program.py").write_text(
            "import sys\n"
            "from src.rate_limiter.token_bucket import TokenBucket\n"
            "from headway import dropin\n"
            "dropin.install()\n"
            "print(__name__, sys.argv[1:])\n"
        )

        done = command(*start, "program", "-x")

        assert (done.stdout, done.stderr, done.returncode) == ("__main__ ['-x']\n", "", 0)

    def test_pytest_runs_a_test_file_unchanged(
        self, command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
    ) -> None:
        (tmp_path / "test_program.py").write_text(
            "from throttled import Throttled, rate_limiter\n"
            "def test_limit():\n"
            "    throttle = Throttled(quota=rate_limiter.per_min(1))\n"
            "    assert [throttle.limit('k').limited for _ in range(2)] == [False, True]\n"
        )

        done = command("--", "-m", "pytest", "-q", "-p", "no:cacheprovider")

        assert done.returncode == 0, done.stdout + done.stderr
        assert "1 passed" in done.stdout

    @pytest.mark.parametrize(
        ("args", "sentence"),
        [
            ([], "must follow '--'"),
            (["script.py"], "must follow '--'"),
            (["throttled", "--"], "no program after '--'"),
            (["--", "-m"], "no module after '-m'"),
            (["--", "missing.py"], "no file 'missing.py'"),
            (["flask", "--", "-m", "this"], "Unknown name: 'flask'"),
        ],
    )
    def test_a_wrong_command_line_ends_with_two_and_a_sentence(
        self,
        args: list[str],
        sentence: str,
        command: Callable[..., subprocess.CompletedProcess[str]],
    ) -> None:
        done = command(*args)

        assert done.returncode == 2
        assert sentence in done.stderr
        assert "usage: python -m headway.dropin" in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""

    def test_help_tells_the_usage(
        self, command: Callable[..., subprocess.CompletedProcess[str]]
    ) -> None:
        done = command("--help")
        assert done.returncode == 0
        assert "usage: python -m headway.dropin" in done.stdout


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_workers_have_the_mirrors_however_they_are_started(
    method: str, command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(
        "import multiprocessing, sys\n"
        "from limiters import SyncSemaphore\n"
        "def work():\n"
        "    assert SyncSemaphore.__module__.startswith('headway.')\n"
        "if __name__ == '__main__':\n"
        "    process = multiprocessing.get_context(sys.argv[1]).Process(target=work)\n"
        "    process.start()\n"
        "    process.join()\n"
        "    print('exit code', process.exitcode)\n"
    )
    run = command("limiters", "--", "program.py", method)
    assert run.stdout.split() == ["exit", "code", "0"], run.stderr
