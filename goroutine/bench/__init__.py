"""`goroutine-bench`: what the runtime reaches on this machine, measured so that it can be trusted.

Layout: `commands/` holds one file per benchmark; the files here are what benchmarks share. The load
generator (`load`, `pattern`, `histogram`) is plain Python on epoll and knows nothing of goroutines,
so that it judges the runtime from outside.
"""
