"""A File does what io.BytesIO does: any order of operations, both looked at after each."""

import io
import os

import pytest
from fs_support import WAYS, Run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import goroutine
from goroutine import fs
from goroutine.fs import bytesat, lines

pytestmark = pytest.mark.timeout(60)

sizes = st.integers(0, 40)
data = st.lists(st.sampled_from([b"\n", b"a", b"bcd", b"\n\n", b"x" * 11]), max_size=6).map(
    b"".join
)

steps = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(-1, 40)),
        st.tuples(st.just("readline")),
        st.tuples(st.just("lines"), st.integers(1, 5)),
        st.tuples(st.just("write"), data),
        st.tuples(st.just("pread"), sizes, sizes),
        st.tuples(st.just("pwrite"), data, sizes),
        st.tuples(st.just("seek"), st.integers(-10, 40), st.sampled_from([0, 1, 2])),
        st.tuples(st.just("truncate"), st.one_of(st.none(), sizes)),
    ),
    max_size=25,
)


class Model(io.BytesIO):
    def pread(self, n, offset):
        return self.getvalue()[offset : offset + n]

    def pwrite(self, data, offset):
        if data:
            at = self.tell()
            super().seek(offset)
            self.write(data)
            super().seek(at)
        return len(data)

    def seek(self, offset, whence):
        end = len(self.getvalue())
        to = offset + (0, self.tell(), end)[whence]
        if to < 0:
            return OSError
        return super().seek(to)

    def truncate(self, size):
        size = self.tell() if size is None else size
        short = size - len(self.getvalue())
        if short > 0:
            self.pwrite(bytes(short), size - short)
        return super().truncate(size)

    def lines(self, most):
        found = []
        for line in self:
            found.append(line)
            if len(found) == most:
                break
        return found


class Real:
    def __init__(self, file):
        self.file = file

    async def do(self, what, *args):
        if what == "lines":
            found = []
            async for line in self.file:
                found.append(line)
                if len(found) == args[0]:
                    break
            return found
        try:
            return await getattr(self.file, what)(*args)
        except OSError:
            return OSError


async def play(path, first, todo):
    model = Model(first)
    async with fs.open(path, "r+") as f:
        real = Real(f)
        for what, *args in todo:
            expected = getattr(model, what)(*args)
            assert (what, args, await real.do(what, *args)) == (what, args, expected)
            assert f.tell() == model.tell()
    with open(path, "rb") as f:
        assert f.read() == model.getvalue()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("chunk", [7, 1 << 16], ids=["pieces", "whole"])
def test_model(tmp_path_factory, monkeypatch, way, chunk):
    path = str(tmp_path_factory.mktemp("model") / "file")
    monkeypatch.setattr(lines, "CHUNK", chunk)
    if chunk == 7:
        monkeypatch.setattr(bytesat, "MOST", 13)
    run = Run(way, 1)
    if run.direct:
        monkeypatch.setattr(bytesat.FileHandle, "read_cached", lambda *_: None)

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(first=data, todo=steps)
    def check(first, todo):
        with open(path, "wb") as f:
            f.write(first)
        goroutine.start(play, path, first, todo, machines=1, io=run.io)

    check()
    os.unlink(path)
