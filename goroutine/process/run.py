"""run: a program from its start to its end, as subprocess.run."""

from __future__ import annotations

import locale
import os
from collections.abc import Mapping
from subprocess import PIPE, CalledProcessError, CompletedProcess, TimeoutExpired
from typing import TYPE_CHECKING, Any

from ..context import background, with_timeout
from ..errors import DeadlineExceeded
from ..group import Group
from .child import File, Process, start
from .spawn import Args
from .stream import Reader, Writer

if TYPE_CHECKING:
    from ..context import Context

type Data = bytes | bytearray | memoryview

__all__ = ["run"]


async def run(
    args: Args,
    *,
    input: Data | str | None = None,
    capture_output: bool = False,
    stdin: File = None,
    stdout: File = None,
    stderr: File = None,
    check: bool = False,
    timeout: float | None = None,
    cwd: str | bytes | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    text: bool = False,
    encoding: str | None = None,
    errors: str | None = None,
    pass_fds: tuple[int, ...] = (),
    start_new_session: bool = False,
    process_group: int | None = None,
    ctx: Context | None = None,
) -> CompletedProcess[Any]:
    """Run a program to its end: ``args``, ``returncode``, and what was captured in ``stdout``
    and ``stderr`` (bytes; str with ``text``, ``encoding`` or ``errors``; else None).

    The options are as in ``subprocess.run``; there is no shell. ``input`` is what it reads.
    ``capture_output`` is ``stdout=PIPE, stderr=PIPE``. With ``check`` a status other than 0
    raises ``CalledProcessError``. After ``timeout`` seconds the program is killed:
    ``TimeoutExpired``, which has what was captured by then, as bytes. ``OSError`` if it
    can't be started; ``ValueError`` for options that contradict each other.

    `Canceled` if ``ctx`` is, or gets, cancelled. Cancel safety: the program is killed, and
    has been waited for (what it has started lives on, as with a timeout); so it is when the
    run ends. Go: exec.CommandContext, Cmd.Output.

    >>> async def main():
    ...     done = await process.run(["echo", "hello"], capture_output=True, check=True)
    ...     return done.stdout
    >>> goroutine.start(main)
    b'hello\\n'
    """
    as_text = text or encoding is not None or errors is not None
    codec = encoding or locale.getpreferredencoding(False), errors or "strict"
    if input is not None:
        if stdin is not None:
            raise ValueError("stdin and input arguments may not both be used.")
        stdin = PIPE
    if capture_output:
        if stdout is not None or stderr is not None:
            raise ValueError("stdout and stderr arguments may not be used with capture_output.")
        stdout = stderr = PIPE
    data = _encoded(input, codec if as_text else None)
    options = {
        "stdin": stdin,
        "stdout": stdout,
        "stderr": stderr,
        "cwd": cwd,
        "env": env,
        "pass_fds": pass_fds,
        "start_new_session": start_new_session,
        "process_group": process_group,
    }
    took = _Run(args, options, data)
    if timeout is None:
        await took.run(ctx)
    else:
        with with_timeout(ctx or background(), timeout) as within:
            try:
                await took.run(within)
            except DeadlineExceeded:
                if within.err() is None or (ctx is not None and ctx.err() is not None):
                    raise  # that was the group's deadline, or ctx's
                raise TimeoutExpired(args, timeout, took.stdout(), took.stderr()) from None
    p = took.process
    assert p is not None
    code = p.returncode
    assert code is not None
    out, err = took.stdout(), took.stderr()
    done: CompletedProcess[Any] = CompletedProcess(args, code, out, err)
    if as_text:
        done.stdout, done.stderr = _decoded(out, codec), _decoded(err, codec)
    if check and code:
        raise CalledProcessError(code, args, done.stdout, done.stderr)
    return done


class _Run:
    """One run of a program. What it has written by now is in its readers' buffers."""

    def __init__(self, args: Args, options: dict[str, Any], data: Data) -> None:
        self.args, self.options, self.data = args, options, data
        self.process: Process | None = None

    async def run(self, ctx: Context | None) -> None:
        """To its end. Whatever comes between, it has been killed, and waited for."""
        p = self.process = await start(self.args, ctx=ctx, **self.options)
        async with p, Group(ctx) as group:
            # All at once, since a pipe that is full stops the program.
            if p.stdin is not None:
                group.go(_feed, p.stdin, self.data)
            for reader in (p.stdout, p.stderr):
                if reader is not None:
                    group.go(reader.fill)
            await p.wait()

    def stdout(self) -> bytes | None:
        return None if self.process is None else _come(self.process.stdout)

    def stderr(self) -> bytes | None:
        return None if self.process is None else _come(self.process.stderr)


def _come(reader: Reader | None) -> bytes | None:
    return None if reader is None else bytes(reader.come)


async def _feed(stdin: Writer, data: Data) -> None:
    try:
        await stdin.write(data)
    except BrokenPipeError:
        pass  # it doesn't want to know more
    finally:
        stdin.close()


type Codec = tuple[str, str]  # encoding and errors


def _encoded(data: Data | str | None, codec: Codec | None) -> Data:
    if data is None:
        return b""
    if isinstance(data, str):
        if codec is None:
            raise TypeError("input is bytes, unless text, encoding or errors is given")
        return data.encode(*codec)
    if codec is not None:
        raise TypeError(f"input is a str if text is wanted, not {type(data).__name__}")
    return memoryview(data)


def _decoded(data: bytes | None, codec: Codec) -> str | None:
    if data is None:
        return None
    return data.decode(*codec).replace("\r\n", "\n").replace("\r", "\n")
