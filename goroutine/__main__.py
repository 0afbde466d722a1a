"""``python -m goroutine app.py [args]``: runs an app's ``async def main()`` as goroutine 1.

``python -m goroutine dump PID``: what the goroutines of a running program are doing.
``python -m goroutine trace view FILE``: a page of what they did.
"""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from importlib.machinery import SourceFileLoader, SourcelessFileLoader
from importlib.util import module_from_spec, spec_from_loader
from types import ModuleType

from .errors import GoroutinePanic
from .runtime.scheduler import start

USAGE = """\
usage: python -X gil=0 -m goroutine APP.py [ARGUMENT ...]
       python -m goroutine dump PID
       python -m goroutine trace view FILE [-o PAGE]"""


def load(path: str) -> ModuleType:
    """Run the app's file as module ``__goroutine__``, which then stays in sys.modules: that is
    where dataclasses, pickle and others look for the module of a class."""
    name = "__goroutine__"
    loader = (SourcelessFileLoader if path.endswith(".pyc") else SourceFileLoader)(name, path)
    spec = spec_from_loader(name, loader)
    assert spec is not None
    module = sys.modules[name] = module_from_spec(spec)
    code = loader.get_code(name)
    assert code is not None
    exec(code, vars(module))
    return module


def main(arguments: list[str]) -> int:
    """Exit status: 0, 1 (main raised), 2 (usage, panic)."""
    if not arguments or arguments[0].startswith("-"):
        print(USAGE, file=sys.stderr)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    if arguments[0] == "dump":  # (a file of that name is ./dump)
        from .debug import client

        return client.main(arguments[1:])
    if arguments[0] == "trace":
        from .debug.view import command

        return command.main(arguments[1:])
    path = arguments[0]
    if not os.path.isfile(path):
        print(f"goroutine: no such file: {path}", file=sys.stderr)
        return 2
    sys.argv[:] = arguments
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    app = getattr(load(path), "main", None)
    if not inspect.iscoroutinefunction(app):
        print(f"goroutine: {path} has no 'async def main()'", file=sys.stderr)
        return 2
    try:
        result = start(app)
    except GoroutinePanic:
        return 2  # reported where it happened
    except KeyboardInterrupt:
        return 130
    except Exception:
        traceback.print_exc()
        return 1
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
