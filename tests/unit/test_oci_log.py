"""conmon's log, piece by piece."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoform.forms.oci import log
from isoform.model import LogLine

AT = "2026-11-23T15:36:54.25"


def piece(text: str, stream: str = "stdout", tag: str = "F") -> bytes:
    return f"{AT}+00:00 {stream} {tag} {text}\n".encode()


def test_a_line_has_its_time_stream_and_text() -> None:
    assert log.Lines().feed(piece("hello  world ", "stderr")) == [LogLine("hello  world ", "stderr", 1795448214.25)]


@pytest.mark.parametrize(("zone", "seconds"), [("Z", 0), ("+01:00", -3600), ("-05:30", 19800)])
def test_time_zones_are_counted(zone: str, seconds: int) -> None:
    found = log.Lines().feed(f"{AT}{zone} stdout F x\n".encode())
    assert found[0].at == 1795448214.25 + seconds


def test_pieces_of_two_streams_are_put_together() -> None:
    pieces = piece("a", tag="P") + piece("1", "stderr", "P") + piece("b", tag="P") + piece("2", "stderr") + piece("c")
    assert [(line.stream, line.text) for line in log.Lines().feed(pieces)] == [("stderr", "12"), ("stdout", "abc")]


def test_the_end_without_a_newline_is_a_line() -> None:
    lines = log.Lines()
    assert lines.feed(piece("whole") + piece("rest", tag="P")) == [LogLine("whole", "stdout", 1795448214.25)]
    assert [line.text for line in lines.end()] == ["rest"]
    assert lines.end() == []


def test_empty_lines_and_what_is_not_conmon_s_are_kept() -> None:
    assert [line.text for line in log.Lines().feed(piece("") + b"odd\n")] == ["", "odd"]


@given(st.lists(st.text(st.characters(exclude_categories=("C", "Z"))), max_size=8), st.integers(1, 40))
def test_it_does_not_matter_how_the_bytes_arrive(texts: list[str], step: int) -> None:
    data = b"".join(piece(text) for text in texts)
    lines, found = log.Lines(), []
    for start in range(0, len(data), step):
        found += lines.feed(data[start:start + step])
    assert [line.text for line in found + lines.end()] == texts


def test_the_ending_is_told_by_the_last_line_of_its_kind(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert log.ending(path) is None
    path.write_bytes(piece("exit F 9") + piece("3", "exit"))
    assert log.ending(path) == (3, "")
    begin = path.stat().st_size
    assert log.ending(path, begin) is None  # of the container before
    with path.open("ab") as file:
        file.write(piece("137 out of memory", "exit"))
    assert log.ending(path, begin) == (137, "out of memory")


async def test_following_ends_when_the_writer_is_gone_and_all_is_read(tmp_path: Path) -> None:
    path, ended = tmp_path / "log", asyncio.Event()

    async def write() -> None:
        for number in range(3):
            with path.open("ab") as file:
                file.write(piece(f"line {number}"))
            await asyncio.sleep(0.01)
        with path.open("ab") as file:
            file.write(piece("last", tag="P") + piece("0", "exit"))
        ended.set()

    writing = asyncio.create_task(write())
    found = [line.text async for line in log.read(path, True, ended.is_set)]
    await writing
    assert found == ["line 0", "line 1", "line 2", "last"]


async def test_a_log_that_was_begun_anew_is_read_from_its_beginning(tmp_path: Path) -> None:
    path, ended = tmp_path / "log", asyncio.Event()
    path.write_bytes(piece("old") * 3)
    reader = log.read(path, True, ended.is_set)
    assert [(await anext(reader)).text for _ in range(3)] == ["old"] * 3
    path.with_name("new").write_bytes(piece("new"))
    path.with_name("new").rename(path)
    assert (await anext(reader)).text == "new"
    ended.set()
    assert [line async for line in reader] == []


async def test_a_log_whose_beginning_was_cut_out_is_read_from_its_next_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        file.truncate(8192)  # a hole where the beginning was
        file.seek(8192)
        file.write(b"rest of a cut line\n" + piece("whole"))
    assert [line.text async for line in log.read(path, False, lambda: True, begin=100)] == ["whole"]
