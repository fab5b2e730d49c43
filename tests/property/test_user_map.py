"""UserMap against a model: a dict of pages. Any sequence of maps, protections and copies gives the same bytes and counts."""

from __future__ import annotations

import os

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from polynix.addrspace._usercopy import Fault, MemoryObject, UserAddress, UserMap

PAGE = 4096
PAGES = 24
BASE = (1 << 32) - 12 * PAGE  # the guest range straddles a slice when offsets follow addresses
READ, WRITE = 1, 2

page_ranges = st.tuples(st.integers(0, PAGES - 1), st.integers(1, 8)).map(lambda t: (t[0], min(t[0] + t[1], PAGES)))
addresses = st.builds(lambda page, near: BASE + page * PAGE + near, st.integers(-1, PAGES), st.sampled_from([0, 1, 7, 2048, PAGE - 2, PAGE - 1]))
sizes = st.sampled_from([0, 1, 2, 5, 300, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE, 30 * PAGE])
protections = st.integers(0, 7)


class UserMapModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.user = UserMap()
        self.objects = []
        for _ in range(2):
            fd = os.memfd_create("model")
            os.ftruncate(fd, 1 << 34)
            self.objects.append(MemoryObject(fd))
        self.pages: dict[int, tuple[int, int | None, int]] = {}  # page -> (prot, object, offset)
        self.bytes: dict[tuple[int, int], int] = {}  # (object, offset) -> byte, if not 0

    def teardown(self) -> None:
        for obj in self.objects:
            obj.close()

    def place(self, address: int, need: int) -> tuple[int, int] | None:
        prot, obj, offset = self.pages.get((address - BASE) // PAGE, (0, None, 0))
        return (obj, offset + (address - BASE) % PAGE) if prot & need and obj is not None else None

    def readable(self, address: int, size: int) -> bytes:
        data = bytearray()
        while len(data) < size and (at := self.place(address + len(data), READ | WRITE)) is not None:
            data.append(self.bytes.get(at, 0))
        return bytes(data)

    def store(self, address: int, data: bytes) -> int:
        for done, byte in enumerate(data):
            at = self.place(address + done, WRITE)
            if at is None:
                return done
            self.bytes[at] = byte
        return len(data)

    @rule(pages=page_ranges, prot=protections, obj=st.sampled_from([None, 0, 1]), offset=st.sampled_from([None, 0, 5, (1 << 20) - 2]))
    def map(self, pages: tuple[int, int], prot: int, obj: int | None, offset: int | None) -> None:
        first, end = pages
        start = BASE + first * PAGE if offset is None else offset * PAGE
        self.user.map(BASE + first * PAGE, BASE + end * PAGE, prot, None if obj is None else self.objects[obj], start)
        for page in range(first, end):
            self.pages[page] = (prot, obj, start + (page - first) * PAGE)

    @rule(pages=page_ranges)
    def unmap(self, pages: tuple[int, int]) -> None:
        self.user.unmap(BASE + pages[0] * PAGE, BASE + pages[1] * PAGE)
        for page in range(*pages):
            self.pages.pop(page, None)

    @rule(pages=page_ranges, prot=protections)
    def protect(self, pages: tuple[int, int], prot: int) -> None:
        self.user.protect(BASE + pages[0] * PAGE, BASE + pages[1] * PAGE, prot)
        for page in range(*pages):
            if page in self.pages:
                self.pages[page] = (prot, *self.pages[page][1:])

    @rule(address=addresses, size=sizes, byte=st.integers(0, 255))
    def copy_out(self, address: int, size: int, byte: int) -> None:
        data = (bytes(range(1, 251)) * (size // 250 + 1))[:size] if byte else bytes(size)
        assert self.user.copy_out(UserAddress(address), data) == self.store(address, data)

    @rule(address=addresses, size=sizes)
    def zero(self, address: int, size: int) -> None:
        assert self.user.zero(UserAddress(address), size) == self.store(address, bytes(size))

    @rule(address=addresses, size=sizes)
    def copy_in(self, address: int, size: int) -> None:
        expected = self.readable(address, size)
        assert self.user.copy_in_partial(UserAddress(address), size) == expected
        assert self.user.accessible(UserAddress(address), size, False) == len(expected)
        try:
            assert self.user.copy_in(UserAddress(address), size) == expected
        except Fault as fault:
            assert len(expected) < size and fault.address.ptr == address + len(expected)
        else:
            assert len(expected) == size

    @rule(address=addresses, limit=sizes)
    def read_cstring(self, address: int, limit: int) -> None:
        expected = self.readable(address, limit)
        try:
            text = self.user.read_cstring(UserAddress(address), limit)
        except Fault as fault:
            assert 0 not in expected and len(expected) < limit and fault.address.ptr == address + len(expected)
        else:
            assert text == (expected[: expected.index(0)] if 0 in expected else None)
            assert 0 in expected or len(expected) == limit

    @rule(parts=st.lists(st.tuples(addresses, st.sampled_from([0, 1, 100, PAGE])), max_size=4), limit=sizes)
    def iovecs(self, parts: list[tuple[int, int]], limit: int) -> None:
        expected = b""
        for address, size in parts:
            got = self.readable(address, min(size, limit - len(expected)))
            expected += got
            if len(got) < min(size, limit - len(expected) + len(got)):
                break
        assert self.user.copy_in_iov([(UserAddress(a), n) for a, n in parts], limit) == expected
        data = b"iovec" * (limit // 5 + 1)
        done = 0
        for address, size in parts:
            n = self.store(address, data[done : done + size])
            done += n
            if n < min(size, len(data) - done + n):
                break
        assert self.user.copy_out_iov([(UserAddress(a), n) for a, n in parts], data) == done

    @rule(address=addresses, value=st.integers(0, 2**64 - 1))
    def words(self, address: int, value: int) -> None:
        data = value.to_bytes(8, "little")
        stored = self.store(address, data)
        try:
            self.user.store_u64(UserAddress(address), value)
        except Fault:
            assert stored < 8
        else:
            assert stored == 8 and self.user.load_u64(UserAddress(address)) == value

    @invariant()
    def entries_are_sorted_and_say_the_same(self) -> None:
        pages: dict[int, tuple[int, int | None, int]] = {}
        previous = None
        for entry in self.user.entries():
            start, end, prot, obj, offset = entry
            assert start < end
            if previous is not None:
                assert previous[1] <= start
                joined = previous[1] == start and previous[2:4] == entry[2:4] and (obj is None or previous[4] + previous[1] - previous[0] == offset)
                assert not joined, "neighbours that continue each other are one entry"
            previous = entry
            for page in range((start - BASE) // PAGE, (end - BASE) // PAGE):
                pages[page] = (prot, None if obj is None else self.objects.index(obj), offset + (page * PAGE - (start - BASE)))
        expected = {p: (prot, obj, offset if obj is not None else pages[p][2]) for p, (prot, obj, offset) in self.pages.items()}
        assert pages == expected


TestUserMap = UserMapModel.TestCase
TestUserMap.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
