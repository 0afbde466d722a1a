"""What runs pytest's tests as goroutines. Nothing in here is to be imported by a program.

Read in this order: settings (what is known of a test), runs (one run, its time limit, what is left
at its end), calls (a test's way into a run), fixtures, carrier (a run that outlives a test),
bubbles. Which tests are ours, and the hooks, are in the package pytest_goroutine.
"""

__all__: list[str] = []
