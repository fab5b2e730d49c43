"""The log of a detached container: order, bounds, followers, a full disk."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from polynix.runner.container_log import ContainerLog
from polynix.runner.log_records import ERRORS, HEADER, OUTPUT, parse_records


def text_of(log: ContainerLog, offset: int = 0, most: int = 1 << 30) -> tuple[int, bytes]:
    """What is kept from ``offset`` on, and where it begins."""
    first = None
    data = b""
    while True:
        at, piece = log.read(offset, most)
        first = at if first is None else first
        if not piece:
            return first, data
        data += b"".join(record.data for record in parse_records(piece))
        offset = at + len(piece)


def test_streams_keep_their_order_and_their_names(tmp_path: Path) -> None:
    async def check() -> None:
        log = ContainerLog(str(tmp_path / "log"))
        output, errors = log.add_stream(OUTPUT), log.add_stream(ERRORS)
        for number in range(20):
            os.write(output if number % 2 else errors, b"%d\n" % number)
            await log.wait_beyond(log.read(0, 0)[0] if number == 0 else log._end - 1)
            await asyncio.sleep(0.001)
        os.close(output)
        os.close(errors)
        await log.wait_until_ended()
        records = list(parse_records(log.read(0, 1 << 20)[1]))
        assert b"".join(record.data for record in records if record.stream == OUTPUT) == b"".join(b"%d\n" % n for n in range(1, 20, 2))
        assert b"".join(record.data for record in records if record.stream == ERRORS) == b"".join(b"%d\n" % n for n in range(0, 20, 2))
        assert [record.time_ns for record in records] == sorted(record.time_ns for record in records)
        log.close()
        assert not (tmp_path / "log").exists()

    asyncio.run(check())


def test_the_oldest_is_dropped_and_readers_go_on_behind_it(tmp_path: Path) -> None:
    async def check() -> None:
        log = ContainerLog(str(tmp_path / "log"), limit=1 << 16)
        output = log.add_stream(OUTPUT)
        os.set_blocking(output, False)
        everything = b"".join(b"%07d\n" % number for number in range(60000))
        written = 0
        while written < len(everything):
            try:
                written += os.write(output, everything[written : written + 4096])
            except BlockingIOError:
                await asyncio.sleep(0)
        os.close(output)
        await log.wait_until_ended()
        begin, kept = text_of(log, 0, 10000)
        assert begin > 0 and everything.endswith(kept) and 1 << 16 <= len(kept) <= 3 << 16
        assert sum(path.stat().st_size for path in (tmp_path / "log").iterdir()) <= 3 << 16
        assert text_of(log, log._end)[1] == b""
        log.close()

    asyncio.run(check())


def test_a_follower_is_woken(tmp_path: Path) -> None:
    async def check() -> None:
        log = ContainerLog(str(tmp_path / "log"))
        output = log.add_stream(OUTPUT)
        follower = asyncio.create_task(log.wait_beyond(0))
        await asyncio.sleep(0.01)
        assert not follower.done()
        os.write(output, b"news")
        await asyncio.wait_for(follower, 10)
        last = asyncio.create_task(log.wait_beyond(log._end))
        await asyncio.sleep(0.01)
        os.close(output)
        await asyncio.wait_for(last, 10)
        assert log.ended
        log.close()

    asyncio.run(check())


def test_a_full_disk_loses_whole_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        log = ContainerLog(str(tmp_path / "log"))
        log._write(HEADER.pack(1, OUTPUT, 4) + b"kept")
        os.close(log._file)
        log._file = os.open("/dev/full", os.O_RDWR)
        log._write(HEADER.pack(2, OUTPUT, 4) + b"lost")
        assert log.lost == HEADER.size + 4 and log._end == HEADER.size + 4
        log.close()

    asyncio.run(check())


@pytest.mark.parametrize("data", [b"x", HEADER.pack(1, 1, 5) + b"four"])
def test_half_records_are_errors(data: bytes) -> None:
    with pytest.raises(ValueError):
        list(parse_records(data))
