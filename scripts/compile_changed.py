"""Compiles the C files of an extension side by side, and leaves out those that have not changed.

setuptools compiles every file of an extension, one after the other, when one of them has changed.
Here an object is kept where it is newer than its source and all headers, and where the last build
gave the compiler the same command.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def install(compiler: Any, headers: Iterable[str]) -> None:
    """Replaces `compile` of a setuptools compiler; `headers` are what every source may include."""
    newest = max((Path(path).stat().st_mtime for path in headers), default=0.0)

    def compile(
        sources: list[str],
        output_dir: str | None = None,
        macros: list[tuple[str, str | None]] | None = None,
        include_dirs: list[str] | None = None,
        debug: bool = False,
        extra_preargs: list[str] | None = None,
        extra_postargs: list[str] | None = None,
        depends: list[str] | None = None,
    ) -> list[str]:
        _, objects, postargs, pp_opts, build = compiler._setup_compile(
            output_dir, macros, include_dirs, sources, depends, extra_postargs
        )
        cc_args = compiler._get_cc_args(pp_opts, debug, extra_preargs)
        record = Path(output_dir or ".") / "compiled-with.json"
        command = json.dumps([compiler.compiler_so, cc_args, postargs])
        same = record.exists() and record.read_text(encoding="utf-8") == command

        def one(target: str) -> None:
            source, extension = build[target]
            path = Path(target)
            if same and path.exists():
                made = path.stat().st_mtime
                if made > newest and made > Path(source).stat().st_mtime:
                    return
            path.unlink(missing_ok=True)  # a compiler that is killed leaves no object behind
            compiler._compile(target, source, extension, cc_args, postargs, pp_opts)

        record.parent.mkdir(parents=True, exist_ok=True)
        record.unlink(missing_ok=True)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(one, (target for target in objects if target in build)))
        record.write_text(command, encoding="utf-8")
        return list(objects)

    compiler.compile = compile
