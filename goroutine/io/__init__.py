"""Input and output by completion: the io_uring binding and the pollers on it."""
