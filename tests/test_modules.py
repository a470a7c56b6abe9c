"""Every module that users import can be imported alone: the order does not matter."""

from __future__ import annotations

import subprocess
import sys

from tests.support.environment import unmeasured
from tests.test_public import modules


def test_every_module_stands_alone() -> None:
    """Each is imported first, in a process that has imported none of the others.

    That begins with its packages, so the process is forked from one that has imported just these. What the last of them
    loads is thereby as good as imported alone. What others have made is loaded from the start.
    """
    code = """
import gc, importlib, os, sys

names = ["basiq_async", *sys.argv[1:]]

def load(name):
    try:
        importlib.import_module(name)
    except Exception as exc:
        print(f"{name}: {exc!r}", file=sys.stderr, flush=True)
        os._exit(1)

def load_all(name):
    load(name)
    print(name, flush=True)
    below = [other for other in names if other.rpartition(".")[0] == name]
    for each in below:
        if each in sys.modules and not any(other.startswith(each + ".") for other in names):
            print(each, flush=True)
            continue
        child = os.fork()
        if not child:
            load_all(each)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            os._exit(1)

for name in names:
    load(name)
for name in [name for name in sys.modules if name.partition(".")[0] == "basiq_async"]:
    del sys.modules[name]
gc.disable()
load_all(names[0])
"""
    public = [name for name in modules() if "._" not in name]
    command = [sys.executable, "-W", "error", "-c", code, *public]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=unmeasured())
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == sorted({"basiq_async", *public})
