"""What figures depend on besides the code: the machine, the interpreter, how it was started."""

import os
import platform
import re
import sys
import sysconfig
from pathlib import Path
from typing import Any

__all__ = [
    "busy_seconds",
    "child_python",
    "describe",
    "describe_interpreter",
    "machine_facts",
    "warnings",
]


def free_threaded() -> bool:
    """Whether this interpreter's build can run without the GIL."""
    return bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def child_python() -> list[str]:
    """The command of this interpreter, with the GIL off where it can be."""
    if free_threaded():
        return [sys.executable, "-X", "gil=0"]
    # A build with the GIL refuses that option. The runtime's own warning is left to `warnings`,
    # which says it once and not once for each server.
    return [sys.executable, "-W", "ignore:the GIL is on"]


def describe_interpreter() -> dict[str, Any]:
    """Of the process that calls it: the server's is the one that counts."""
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "free_threaded": free_threaded(),
        "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
    }


def machine_facts() -> dict[str, Any]:
    return {
        "kernel": f"{os.uname().sysname} {os.uname().release}",
        "cpu": _cpu_model(),
        "cpus": os.process_cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
    }


def busy_seconds() -> float:
    """CPU time that all programs of the machine have used, interrupts left out."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    user, nice, system, _idle, _iowait, _irq, _softirq, steal = map(int, fields[1:9])
    return (user + nice + system + steal) / os.sysconf("SC_CLK_TCK")


def _cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    return found[1].strip() if found else platform.machine()


def warnings(server: dict[str, Any]) -> list[str]:
    """What makes the figures worse than they need be; `server` is what it said about itself."""
    found = []
    if server.get("gil"):
        why = "" if server.get("free_threaded") else " (this Python isn't a free-threaded build)"
        found.append(f"the GIL is on{why}: machines take turns instead of running in parallel")
    if sys.dont_write_bytecode:
        # Constants of a module that wasn't loaded from .pyc stay counted, and threads that share
        # them slow each other down.
        found.append("PYTHONDONTWRITEBYTECODE (or -B) is set: modules that have no .pyc run slower")
    return found


def describe(server: dict[str, Any], facts: dict[str, Any], *, backend: bool = True) -> str:
    """The facts in two lines. `backend`: name the server's back-end and machines, too."""
    build = "free-threaded" if server.get("free_threaded") else "not free-threaded"
    gil = "on" if server.get("gil") else "off"
    parts = [f"Python {server.get('python')} ({build}), GIL {gil}"]
    if backend:
        parts.append(f"{server.get('backend')}, machines {server.get('machines')}")
    machine = [
        str(facts["kernel"]),
        f"{facts['cpus']} CPUs ({facts['cpu']})",
        f"load average {facts['load_average']} before",
    ]
    return " | ".join(parts) + "\n" + " | ".join(machine)
