import gc
import threading

import pytest
from process_support import children, fds

import goroutine


@pytest.fixture(autouse=True)
def nothing_is_left():
    """No process, zombie, fd or thread."""
    before = children(), fds()
    yield
    if (children(), fds()) != before:
        gc.collect()
    assert (children(), fds()) == before
    assert not [t for t in threading.enumerate() if t.name.startswith("goroutine")]


@pytest.fixture(params=["io_uring-1", "epoll-1", "io_uring-2", "epoll-4"])
def run(request):
    """start() on each kind of poller, with several numbers of machines."""
    io, _, machines = request.param.rpartition("-")

    def start(main, *args):
        return goroutine.start(main, *args, machines=int(machines), io=io)

    return start
