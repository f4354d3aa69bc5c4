"""Writes the Lua scripts of src/redis/lua as a C header: their text and its SHA-1.

    python scripts/embed_lua.py build/generated/lua_scripts.h

Comments and indentation are left out of what is sent to a server; the sources keep them.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

LUA = Path(__file__).resolve().parent.parent / "src" / "redis" / "lua"


def stripped(source: str) -> str:
    """The script without what only people read. No script holds '--' inside a text."""
    lines = (line.split("--")[0].strip() for line in source.splitlines())
    return "\n".join(line for line in lines if line)


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return "\n".join(f'    "{line}\\n"' for line in escaped.splitlines())


def header() -> str:
    parts = ["/* Made by scripts/embed_lua.py from src/redis/lua. */"]
    for path in sorted(LUA.glob("*.lua")):
        text = stripped(path.read_text(encoding="utf-8")) + "\n"
        digest = hashlib.sha1(text.encode()).hexdigest()
        parts.append(f'#define LUA_{path.stem.upper()}_SHA "{digest}"')
        parts.append(f"static const char LUA_{path.stem.upper()}[] =\n{quoted(text)};")
    names = " ".join(f"X({path.stem}, {path.stem.upper()})" for path in sorted(LUA.glob("*.lua")))
    parts.append(f"#define LUA_SCRIPTS(X) {names}")
    return "\n".join(parts) + "\n"


def write(target: Path) -> None:
    """Writes the header, unless it is there and the same: then nothing is compiled again."""
    text = header()
    if not target.exists() or target.read_text(encoding="utf-8") != text:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
