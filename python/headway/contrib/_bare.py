"""`@limit` where `@limit("10/minute")` is meant: said when a function is decorated.

A limit may be a callable that tells the quota, so a function that is to be limited looks like one.
What tells them apart is the line that makes the call, "@limit" and nothing more; and that what
tells a quota can be called with one argument.
"""

import linecache
import re
import sys
from inspect import signature
from types import FrameType
from typing import Any

__all__ = ["refuse_bare"]

_BARE = re.compile(r"\s*@[\w.]+\s*(#.*)?")
_DEF = re.compile(r"\s*(async\s+)?(def|class)\s")


def refuse_bare(limits: Any, taken: str = "request") -> None:
    """For a function that makes a decorator of `limits`, first of all. Raises TypeError.

    taken: what a callable that tells the quota is given.
    """
    if not callable(limits):
        return
    if _decorates(sys._getframe(2)) or isinstance(limits, type):
        raise TypeError(_sentence(limits, "put where a quota belongs"))
    try:
        signature(limits).bind(None)
    except TypeError:
        what = f"not a function of the {taken} that tells a quota"
        raise TypeError(_sentence(limits, what)) from None
    except ValueError:  # of a builtin that does not tell
        return


def _decorates(caller: FrameType) -> bool:
    """Whether the line that `caller` is at is a decorator without parentheses."""
    code, number = caller.f_code, caller.f_lineno
    line = linecache.getline(code.co_filename, number, caller.f_globals)
    if _BARE.fullmatch(line.rstrip()):
        return True
    if sys.version_info >= (3, 11):
        return False
    # Python 3.10 is then at the line of `def`, which may be that of a function in one line, too.
    return code.co_firstlineno < number and _DEF.match(line) is not None


def _sentence(limits: Any, what: str) -> str:
    name = getattr(limits, "__qualname__", None) or repr(limits)
    return f'{name!r} is {what}: write @limit("10/minute") above a function that is to be limited.'
