"""The first primes, by a chain of goroutines: python -X gil=0 examples/sieve.py [COUNT]

Go's classic. Numbers flow through one filter per prime found so far; whatever comes out at
the end is divisible by none of them, so it is the next prime and gets a filter of its own.
"""

from __future__ import annotations

import sys

from goroutine import Chan, chan, go, start


async def count_from(first: int, out: Chan[int]) -> None:
    """Send first, first + 1, … for ever."""
    while True:
        await out.send(first)
        first += 1


async def without_multiples(prime: int, source: Chan[int], out: Chan[int]) -> None:
    """Pass on what `prime` doesn't divide."""
    async for number in source:
        if number % prime:
            await out.send(number)


async def main(count: int = 100) -> None:
    numbers: Chan[int] = chan()
    go(count_from, 2, numbers)
    for _ in range(count):
        prime = await numbers.recv()
        print(prime)
        rest: Chan[int] = chan()
        go(without_multiples, prime, numbers, rest)
        numbers = rest
    # Returning from main ends the program; the goroutines of the chain are closed.


if __name__ == "__main__":
    start(main, *map(int, sys.argv[1:2]))
