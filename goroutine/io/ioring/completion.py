"""What comes out of a ring."""

from __future__ import annotations

from typing import NamedTuple

from .abi import CQE_BUFFER_SHIFT, CQE_F_BUFFER, CQE_F_MORE

__all__ = ["Completion"]


class Completion(NamedTuple):
    """One completion queue entry."""

    user_data: int
    """What the operation was queued with."""
    res: int
    """The operation's result; a negative one is ``-errno``."""
    flags: int
    """``CQE_F_…`` bits; the upper 16 are a buffer's id if ``CQE_F_BUFFER`` is set."""

    @property
    def more(self) -> bool:
        """Whether the same operation will give further completions."""
        return self.flags & CQE_F_MORE != 0

    @property
    def buffer_id(self) -> int | None:
        """The provided buffer this completion has used up, whatever ``res`` says."""
        if self.flags & CQE_F_BUFFER:
            return self.flags >> CQE_BUFFER_SHIFT
        return None
