"""The Python blocks of the documents, and what each needs around it to run.

A block is named after its document and the heading or scenario above it, and numbered where that
has several: `throttled/decorator`, `token-bucket/allow-method-2`. A block runs verbatim; names
that it uses but does not define (`limiter`, `fetch_data`) are set in lines before it, one each. A
block that only defines functions is followed by a line that calls them, so that something happens.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).parent / "data"
DOCUMENTS = {
    "throttled": "throttled",
    "choked": "choked",
    "limiters": "limiters",
    "token-bucket": "src.rate_limiter",
}
"""Each document, and the name that the drop-in knows its package by."""

_TITLE_OR_BLOCK = re.compile(
    r"^#+ (?P<heading>[^\n]+)$|^\*\*(?P<scenario>Scenario[^\n]+)\*\*$"
    r"|^```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)

PREAMBLE = {
    "choked": "from choked import choked",
    "make_external_api_call": "make_external_api_call = lambda: 'answer'",
    "run_expensive_query": "async def run_expensive_query(): print('query')",
    "TokenBucket": "from src.rate_limiter.token_bucket import TokenBucket",
    "limiter": (
        "from src.rate_limiter.token_bucket import TokenBucket as _TokenBucket\n"
        "limiter = _TokenBucket(capacity=10, tokens_per_second=10)"
    ),
    "light_operation": "light_operation = lambda: print('light')",
    "medium_operation": "medium_operation = lambda: print('medium')",
    "heavy_operation": "heavy_operation = lambda: print('heavy')",
    "do_work": "do_work = lambda: print('work')",
    "handle_rate_limit": "handle_rate_limit = lambda: print('limited')",
    "fetch_data": "fetch_data = lambda: 'data'",
    "process": "process = lambda request: request",
}

CALLS = {
    "choked/perfect-for-multi-worker-applications": "print(worker_api_call())",
    "choked/redis-setup-recommended": "print(api_call())",
    "choked/shared-rate-limits": (
        "print(function_a() + function_b(), function_a.limiter.peek().remaining)"
    ),
    "choked/token-based-api-integration": (
        "print(chat_with_gpt4([{'role': 'user', 'content': 'Hello'}]))"
    ),
    "choked/multi-worker-web-scraping": "print(scrape_page('https://example.com/page'))",
    "choked/database-operations": (
        "import asyncio; asyncio.run(heavy_database_operation())"  # the block imports nothing
    ),
    # Not main(): it gathers a generator, which asyncio refuses.
    "limiters/semaphore": (
        "async def _many(): await asyncio.gather(*[get_foo() for _ in range(100)])\n"
        "asyncio.run(_many())"
    ),
    "limiters/semaphore-2": "main(); main()",
    "limiters/token-bucket": (
        "async def _many(): await asyncio.gather(*[get_foo() for _ in range(7)])\n"
        "asyncio.run(_many())"
    ),
    "limiters/token-bucket-2": "[main() for _ in range(6)]",
}
"""What is done with the functions of a block that defines them and calls none."""


@dataclass(frozen=True)
class Block:
    document: str
    name: str
    code: str

    @property
    def is_signature(self) -> bool:
        """Tell whether this is a signature to read, such as `allow(tokens: float = 1) -> bool`."""
        try:
            ast.parse(self.code)
        except SyntaxError:
            return True
        return False

    def program(self) -> str:
        """Return the block with what it takes for granted in front, and its call behind.

        KeyError where it takes something for granted that PREAMBLE does not know.
        """
        preamble = "".join(f"{PREAMBLE[name]}\n" for name in undefined_names(self.code))
        return f"{preamble}{self.code}\n{CALLS.get(self.name, '')}\n"


def undefined_names(code: str) -> list[str]:
    """Return the names that the code reads and nothing in it, or in Python, defines."""
    read: set[str] = set()
    defined: set[str] = set(dir(builtins)) | {"__name__"}
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                read.add(name)
            case ast.Name(id=name) | ast.arg(arg=name) | ast.ExceptHandler(name=str(name)):
                defined.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                defined.add(name)
            case ast.ClassDef(name=name):
                defined.add(name)
            case ast.alias(name=name, asname=asname):
                defined.add(asname or name.partition(".")[0])
    return sorted(read - defined)


def blocks_of(document: str) -> list[Block]:
    """Return the Python blocks of one document in order, each under a name of its own."""
    text = (DATA / f"{document}.md").read_text(encoding="utf-8")
    found: list[tuple[str, str]] = []
    title = ""
    for match in _TITLE_OR_BLOCK.finditer(text):
        if match["language"] == "python":
            found.append((title, match["code"]))
        elif match["language"] is None:
            title = _slug(match["heading"] or match["scenario"])
    seen: Counter[str] = Counter()
    blocks = []
    for slug, code in found:
        seen[slug] += 1
        number = f"-{seen[slug]}" if seen[slug] > 1 else ""
        blocks.append(Block(document, f"{document}/{slug}{number}", code))
    return blocks


def all_blocks() -> dict[str, Block]:
    """Return every Python block of every document, by name."""
    return {block.name: block for document in DOCUMENTS for block in blocks_of(document)}


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"^\d+\)", "", title.lower())).strip("-")
