"""A fork while another thread is making limiters: the child can make some too."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from deploy_places import Place

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

PROGRAM = """
import os, signal, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from headway import Throttled
from headway.limiters import SyncSemaphore
url, permits = sys.argv[1], sys.argv[2] == "permits"
signal.alarm(25)

def make():
    Throttled("made", quota="10/s", store=url)
    if permits:
        SyncSemaphore(f"made {time.monotonic_ns()}", 1, connection=url)

make()  # what is imported when first used is there before anything is forked

def makes():
    while True:
        make()

for _ in range(2):
    threading.Thread(target=makes, daemon=True).start()
for _ in range(30):
    pid = os.fork()
    if pid == 0:
        signal.alarm(15)
        make()
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    if status:
        sys.stderr.write("the child hung")
        os._exit(1)
os._exit(0)
"""


def test_a_child_can_make_limiters_whatever_its_parents_threads_were_making(
    place: Place, run_python: Callable[..., str]
) -> None:
    run_python(PROGRAM, place.url, "permits" if place.has_permits else "none")
