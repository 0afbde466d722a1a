"""What a program is doing: its goroutines, its machines. Go: runtime/debug, GODEBUG, SIGQUIT.

Without a line of code:

- ``kill -QUIT PID`` (Ctrl-\\) prints what all goroutines are doing and ends the program, status 2.
- ``GOROUTINE_DEBUG`` switches on, separated by commas: ``dump=1``, for
  ``python -m goroutine dump PID``; ``sigusr1=1``, by which SIGUSR1 prints the dump, and the
  program goes on; ``schedtrace=1000``, a line about the scheduler on stderr, every so many
  milliseconds, with ``scheddetail=1`` several; ``leaks=1``, the goroutines that are left when main
  has returned.
"""

from .dumping import dump
from .profile import FunctionProfile, Profile, Wait, profile
from .stats import Blocking, Counts, MachineStats, Stats, stats
from .trace import Trace, trace

__all__ = [
    "Blocking",
    "Counts",
    "FunctionProfile",
    "MachineStats",
    "Profile",
    "Stats",
    "Trace",
    "Wait",
    "dump",
    "profile",
    "stats",
    "trace",
]
