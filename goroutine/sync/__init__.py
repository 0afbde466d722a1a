"""Locks and other meeting points of goroutines. Go: sync, and golang.org/x/sync/semaphore."""

from .semaphore import Semaphore

__all__ = ["Semaphore"]
