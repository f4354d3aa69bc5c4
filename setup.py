"""Compiles headway._core, the one extension module. The rest of the package is in pyproject.toml.

A wheel is for one Python version: the hot path reads cached string hashes and uses vectorcall,
which the limited API does not have.

Environment variables
    CC               the compiler, gcc or clang
    HEADWAY_WERROR   1: a compiler warning is an error, 0: it is not. Unset, it is one where
                     CI=true and this is a checkout, so that somebody else's CI that builds an
                     sdist does not fail over a warning that a newer compiler has learnt.
    HEADWAY_CFLAGS   further compiler flags, after the project's own
    HEADWAY_WITHOUT_REDIS   1: builds without hiredis; RedisStore says so
    HEADWAY_STATIC_HIREDIS  1, or a folder: hiredis inside the module (scripts/static_hiredis.py)
    HEADWAY_TARGET          a wheel for another Python or processor (scripts/wheel_target.py)
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import Command, Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import PlatformError

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "scripts"))
import compile_changed  # noqa: E402
import embed_lua  # noqa: E402
import find_hiredis  # noqa: E402
import static_hiredis  # noqa: E402
import wheel_target  # noqa: E402

try:
    TARGET = wheel_target.of_environment()
except wheel_target.TargetError as error:
    sys.exit(str(error))


def paths(*patterns: str) -> list[str]:
    """Files that match, relative to the root as setuptools wants them, in a stable order."""
    return sorted(p.relative_to(ROOT).as_posix() for q in patterns for p in ROOT.glob(q))


def warnings_are_errors() -> bool:
    wish = os.environ.get("HEADWAY_WERROR", "")
    if wish:
        return wish != "0"
    return os.environ.get("CI") == "true" and (ROOT / ".ci" / "run").exists()


def compile_flags() -> list[str]:
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O3", "-fvisibility=hidden", "-pthread"]
    flags += ["-Wall", "-Wextra"]
    if warnings_are_errors():
        flags.append("-Werror")
    return flags + shlex.split(os.environ.get("HEADWAY_CFLAGS", ""))


def hiredis_flags(command: list[str]) -> find_hiredis.Flags:
    """Flags for hiredis; without it, fails with what to install."""
    if static_hiredis.wanted():
        try:
            return static_hiredis.flags(command)
        except static_hiredis.StaticHiredisError as error:
            raise PlatformError(str(error)) from None
    found = find_hiredis.find(command)
    if found is None:
        raise PlatformError(
            "headway speaks to Redis by way of hiredis, and there is no hiredis/hiredis.h. Install "
            "it (Debian, Ubuntu: sudo apt-get install libhiredis-dev; Fedora: sudo dnf install "
            "hiredis-devel; Alpine: apk add hiredis-dev; macOS: brew install hiredis), or build "
            "without Redis: HEADWAY_WITHOUT_REDIS=1."
        )
    return found


def require_compiler(command: list[str]) -> None:
    """Fails with what to install, instead of the traceback of a process that did not start."""
    if command and shutil.which(command[0]) is None:
        raise PlatformError(
            f"headway has a C core and needs a C compiler, but {command[0]!r} is not on PATH. "
            "Install one (Debian, Ubuntu: sudo apt-get install build-essential; Fedora: "
            "sudo dnf install gcc; Alpine: apk add gcc musl-dev; macOS: xcode-select --install), "
            "or name yours in the environment variable CC."
        )


def require_headers(include_dirs: list[str]) -> None:
    """Fails with what to install, instead of the compiler's 'Python.h: No such file'."""
    if any((Path(d) / "Python.h").exists() for d in include_dirs):
        return
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if Path(sys.base_prefix) == Path("/usr"):
        remedy = (
            f"Install them (Debian, Ubuntu: sudo apt-get install python{version}-dev; Fedora: "
            "sudo dnf install python3-devel; Alpine: apk add python3-dev)."
        )
    else:
        remedy = f"Install the Python at {sys.base_prefix} with its development files, or another."
    raise PlatformError(
        f"headway has a C core and needs the headers of Python {version}, but there is no "
        f"Python.h in {sysconfig.get_path('include')}. {remedy}"
    )


class BuildExtension(build_ext):
    def finalize_options(self) -> None:
        super().finalize_options()
        if TARGET:
            own = {sysconfig.get_path("include"), sysconfig.get_path("platinclude")}
            others = [d for d in self.include_dirs if d not in own]
            self.include_dirs = [*TARGET.includes, *others]

    def get_ext_filename(self, fullname: str) -> str:
        if TARGET:
            return str(Path(*fullname.split("."))) + TARGET.suffix
        return str(super().get_ext_filename(fullname))

    def build_extension(self, ext: Extension) -> None:
        require_compiler(list(getattr(self.compiler, "compiler_so", []) or []))
        require_headers([*self.include_dirs, *self.compiler.include_dirs])
        if find_hiredis.unwanted():
            ext.include_dirs.append("src/redis/none")
            ext.define_macros.append(("HEADWAY_WITHOUT_REDIS", "1"))
        else:
            command = list(getattr(self.compiler, "compiler_so", []) or [])
            flags = hiredis_flags(command)
            ext.extra_compile_args += flags.compile
            ext.extra_link_args += flags.link
            if static_hiredis.wanted():
                ext.define_macros.append(("HEADWAY_STATIC_HIREDIS", "1"))
        generated = ROOT / "build" / "generated"
        embed_lua.write(generated / "lua_scripts.h")
        ext.include_dirs.append(str(generated))
        ext.define_macros.append(("HEADWAY_VERSION", f'"{self.distribution.get_version()}"'))
        headers = paths("src/core/*.h", "src/redis/*.h", "src/python/*.h")
        compile_changed.install(self.compiler, [*headers, str(generated / "lua_scripts.h")])
        super().build_extension(ext)


def commands() -> dict[str, type[Command]]:
    if not TARGET:
        return {"build_ext": BuildExtension}
    # A setuptools that is older than the one of pyproject.toml does not have this command; only
    # wheels for another Python need it.
    from setuptools.command.bdist_wheel import bdist_wheel

    class Wheel(bdist_wheel):
        def get_tag(self) -> tuple[str, str, str]:
            return TARGET.tag if TARGET else super().get_tag()

    return {"build_ext": BuildExtension, "bdist_wheel": Wheel}


setup(
    cmdclass=commands(),
    ext_modules=[
        Extension(
            "headway._core",
            sources=paths("src/core/*.c", "src/redis/*.c", "src/python/*.c"),
            depends=paths(
                "src/core/*.h",
                "src/redis/*.h",
                "src/redis/lua/*.lua",
                "src/python/*.h",
                "scripts/compile_changed.py",
                "scripts/embed_lua.py",
                "scripts/find_hiredis.py",
                "scripts/static_hiredis.py",
                "scripts/wheel_target.py",
                "setup.py",
                "pyproject.toml",
            ),
            include_dirs=["src/core", "src/redis", "src/python"],
            extra_compile_args=compile_flags(),
            extra_link_args=["-pthread", "-lm"],
        )
    ],
)
