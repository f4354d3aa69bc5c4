"""Every lock of the package is known to a fork: a thread of the parent may hold it at that moment,
and the child has the lock and not the thread.

The modules are read, not run. A lock is known where `open_after_fork(...)` is given it, or where a
function that runs in the child (`os.register_at_fork`) makes it anew, or where the reason why no
child needs it is written below.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import headway

PACKAGE = Path(headway.__file__).parent
LOCKS = {
    *("Lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore", "Event", "Barrier", "Timer"),
    *("Thread", "ThreadPoolExecutor", "ProcessPoolExecutor"),
    *("SimpleQueue", "TimedQueue", "Queue", "LifoQueue", "PriorityQueue"),
}
"""What has a lock in it, or is a thread or has threads, which a child has not."""
MODULES = {"threading", "queue", "_thread", "multiprocessing", "futures"}

NOT_NEEDED = {
    "_atomic.py": "_Apart: of one operation of a task, which the child does not have",
    "_activity_redis.py": "the thread that tells is the parent's, and is started anew in a child",
    "choked/remote.py": "Remote: each use compares the process, and starts anew in a child",
    "_timed_queue.py": "TimedQueue: its owners make a new one in a child",
    "_workers.py": "Workers.put: in a child the handler forgets the threads",
    "commands/bench/measuring.py": "a counter of one measurement, whose processes do not fork on",
    "demo/access_log.py": "the demo forks nothing",
    "demo/clients.py": "the demo forks nothing",
    "demo/command.py": "the demo forks nothing",
    "demo/server.py": "the demo forks nothing",
    "limiters/_permits.py": "Permits: the keeper's handler starts all of them anew",
    "limiters/_watcher.py": "wait: the queue of one call, in one thread",
    "limiters/_keeper.py": "Keeper: in a child all keepers are forgotten, and made when needed",
    "limiters/_line.py": "_Line, Lines: in a child each Permits makes its lines anew",
    "smartratelimit/_waiting.py": "ThreadWaiter: of one waiting thread, which the child has not",
    "top/live.py": "`headway top` forks nothing",
    "utils.py": "Benchmark: threads of one call, which ends them",
    "smartratelimit/storage.py": "RedisStorage.update: in a child all its lines are made anew",
}
"""What is not seen from the text: file -> why a child does not meet the lock of its parent."""


def made_locks(tree: ast.Module) -> Iterator[tuple[int, str, bool]]:
    """Line, name of the innermost function, and whether `open_after_fork` gets it, of each lock."""

    def visit(node: ast.AST, function: str, is_opened: bool) -> Iterator[tuple[int, str, bool]]:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            function = node.name
        if isinstance(node, ast.Call):
            name = called(node)
            if name in LOCKS:
                yield node.lineno, function, is_opened
            is_opened = is_opened or name == "open_after_fork"
        for child in ast.iter_child_nodes(node):
            yield from visit(child, function, is_opened)

    yield from visit(tree, "", False)


def called(node: ast.Call) -> str:
    function = node.func
    if isinstance(function, ast.Subscript):
        function = function.value
    if isinstance(function, ast.Name):
        return function.id
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        is_ours = function.value.id in MODULES
        return function.attr if is_ours else f"{function.value.id}.{function.attr}"
    return (
        function.attr if isinstance(function, ast.Attribute) and function.attr not in LOCKS else ""
    )


def in_the_child(tree: ast.Module) -> set[str]:
    """The functions of a module that run in a fork's child, by what `register_at_fork` is given."""
    functions = {
        node.name: node
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and called(node).endswith("register_at_fork"):
            for keyword in node.keywords:
                if keyword.arg == "after_in_child" and isinstance(keyword.value, ast.Name):
                    found.add(keyword.value.id)
    todo = list(found)
    while todo:
        node_of = functions.get(todo.pop())
        for each in ast.walk(node_of) if node_of is not None else ():
            if isinstance(each, ast.Call):
                name = called(each).rpartition(".")[2]
                if name in functions and name not in found:
                    found.add(name)
                    todo.append(name)
    return found


def remade(tree: ast.Module, functions: set[str]) -> set[str]:
    """The global names that these functions give a new lock."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in functions:
            for each in ast.walk(node):
                if isinstance(each, ast.Global):
                    found |= set(each.names)
    return found


def unknown_locks(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = in_the_child(tree)
    names = remade(tree, functions)
    lines: dict[int, str] = {}
    for node in tree.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name):
                lines[node.lineno] = target.id
    file = path.relative_to(PACKAGE).as_posix()
    return [
        f"{file}:{line} in {function or 'the module'}"
        for line, function, is_opened in made_locks(tree)
        if not is_opened
        and function not in functions
        and lines.get(line) not in names
        and file not in NOT_NEEDED
    ]


def test_every_lock_of_the_package_is_known_to_a_fork() -> None:
    unknown = [each for path in sorted(PACKAGE.rglob("*.py")) for each in unknown_locks(path)]
    assert unknown == []


def test_reasons_are_given_for_files_that_have_locks() -> None:
    for file in NOT_NEEDED:
        assert any(True for _ in made_locks(ast.parse((PACKAGE / file).read_text("utf-8")))), file


def test_a_lock_that_no_handler_knows_is_found(tmp_path: Path) -> None:
    tree = ast.parse(
        "import threading\nclass A:\n def __init__(self):\n  self.l = threading.Lock()"
    )
    assert [(line, function) for line, function, _ in made_locks(tree)] == [(4, "__init__")]
    assert in_the_child(tree) == set()
