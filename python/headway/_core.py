"""Stands in for the compiled core where there is none that this Python can load.

An import prefers a compiled module to this file, so this runs only where headway was installed for
another Python, or its sources are used without being built.
"""

import sys
import sysconfig
from pathlib import Path

_found = sorted(path.name for path in Path(__file__).parent.glob("_core.*.so"))
_wanted = sysconfig.get_config_var("EXT_SUFFIX")

raise ImportError(
    f"headway has no compiled core for this Python ({sys.implementation.name} "
    f"{sys.version.split()[0]} at {sys.executable}, which loads _core{_wanted}; there is "
    f"{' and '.join(_found) or 'none'}): install it with this Python's own pip "
    f"({sys.executable} -m pip install headway), or run `make build` in a checkout.",
    name="headway._core",
)
