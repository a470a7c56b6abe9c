"""Every module can be imported alone: nobody has to know an order."""

from __future__ import annotations

import subprocess
import sys

from tests.test_public import modules


def test_every_module_stands_alone() -> None:
    """Each is imported first, in a process that has imported none of the others.

    That begins with its package. What the package loads is thereby as good as imported alone.
    """
    code = """
import importlib, sys
loads = {}

def load(name):
    for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == "basiq_async"]:
        del sys.modules[loaded]
    try:
        importlib.import_module(name)
    except Exception as exc:
        sys.exit(f"{name}: {exc!r}")
    return set(sys.modules)

for name in ["basiq_async", *sys.argv[1:]]:
    if name not in loads.get(name.rpartition(".")[0], ()):
        loads[name] = load(name)
print(len(loads))
"""
    command = [sys.executable, "-W", "error", "-c", code, *modules()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10
