import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from goroutine.bench import measure

STAND_IN = Path(__file__).with_name("stand_in.py")


@pytest.fixture
def stand_in() -> Iterator[Callable[..., int]]:
    """Starts `stand_in.py` with a fault, and gives its port."""
    running: list[subprocess.Popen[str]] = []

    def start(fault: str = "") -> int:
        process = subprocess.Popen(
            [sys.executable, str(STAND_IN), *([fault] if fault else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        assert process.stdout is not None
        return int(json.loads(process.stdout.readline())["port"])

    yield start
    for process in running:
        process.communicate(timeout=5)  # closes its input, which ends it


@pytest.fixture
def serve_by(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the command measure `stand_in.py` with a fault, not the real server."""

    def choose(*faults: str) -> None:
        """One fault for each run to come; the last one stays."""
        left = list(faults)

        def command(_spec: measure.EchoSpec) -> list[str]:
            fault = left.pop(0) if len(left) > 1 else left[0]
            return [sys.executable, str(STAND_IN), *([fault] if fault else [])]

        monkeypatch.setattr(measure, "server_command", command)

    return choose
