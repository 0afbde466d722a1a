"""The ways a benchmark can end without figures. The text of each is one line for the reader."""

__all__ = ["RunFailedError", "UnavailableError", "UsageError"]


class UsageError(Exception):
    """What was asked for makes no sense here (exit status 2)."""


class RunFailedError(Exception):
    """The run gave no figures that can be trusted (exit status 1).

    `details` is for `--json`: what is known about the failure beyond its one line.
    """

    def __init__(self, text: str, details: dict[str, object] | None = None) -> None:
        super().__init__(text)
        self.details: dict[str, object] = details or {}


class UnavailableError(RunFailedError):
    """This machine can't do it (io_uring is forbidden, say): not a failure of what is measured."""
