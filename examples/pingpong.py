"""Two goroutines pass a ball over channels: python -X gil=0 examples/pingpong.py [ROUNDS]"""

from __future__ import annotations

import sys
import time

from goroutine import Chan, chan, go, start


async def player(mine: Chan[int], other: Chan[int], rounds: int) -> int:
    """Hit the ball back until it has been hit `rounds` times; returns the player's hits."""
    hits = 0
    # Ends when the other player closes our channel: the game is over.
    async for ball in mine:
        if ball == rounds:
            break
        hits += 1
        await other.send(ball + 1)
    other.close()
    return hits


async def main(rounds: int = 100_000) -> None:
    # Without a buffer, sending waits until the other side receives.
    left: Chan[int] = chan()
    right: Chan[int] = chan()
    began = time.perf_counter()
    players = go(player, left, right, rounds), go(player, right, left, rounds)
    await left.send(0)
    ping, pong = [await g for g in players]  # awaiting a goroutine gives its result
    each = (time.perf_counter() - began) / max(ping + pong, 1)
    print(f"ping: {ping} hits\npong: {pong} hits")
    print(f"{ping + pong} passes, {each * 1e6:.2f} us each")


if __name__ == "__main__":
    start(main, *map(int, sys.argv[1:2]))
