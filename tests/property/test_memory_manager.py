"""An address space against a model: a dictionary from page to (protection, contents), driven by random mmap, munmap, mprotect, mremap, brk and fork."""

from __future__ import annotations

import os

from hypothesis import given, settings
from hypothesis import strategies as st
from polynix.addrspace._usercopy import Fault, MemoryObject, UserAddress
from polynix.addrspace.addresses import PAGE_SIZE
from polynix.addrspace.memory_manager import MemoryManager
from polynix.addrspace.remap import remap

BASE = 0x7000_0000_0000
PAGES = 24
READ, WRITE = 1, 2

pages = st.integers(0, PAGES - 1)
lengths = st.integers(1, 6)
prots = st.sampled_from([0, READ, READ | WRITE])
operations = st.one_of(
    st.tuples(st.just("map"), pages, lengths, prots),
    st.tuples(st.just("unmap"), pages, lengths, st.just(0)),
    st.tuples(st.just("protect"), pages, lengths, prots),
    st.tuples(st.just("write"), pages, lengths, st.integers(1, 255)),
    st.tuples(st.just("discard"), pages, lengths, st.just(0)),
    st.tuples(st.just("move"), pages, lengths, pages),
    st.tuples(st.just("fork"), pages, lengths, st.just(0)),
)
Model = dict[int, tuple[int, int]]  # page -> (protection, byte that fills it)


def new_space() -> MemoryManager:
    fd = os.memfd_create("test-region")
    os.ftruncate(fd, 1 << 47)
    return MemoryManager(None, MemoryObject(fd))  # type: ignore[arg-type]


def address(page: int) -> int:
    return BASE + page * PAGE_SIZE


def check(mm: MemoryManager, model: Model) -> None:
    previous = None
    for vma in mm.vmas:
        assert vma.start < vma.end
        if previous is not None:
            assert previous.end <= vma.start
            assert not previous.merges_with(vma)
        previous = vma
    assert mm._starts == [vma.start for vma in mm.vmas]
    assert mm.total_vm == len(model) * PAGE_SIZE
    for page in range(PAGES):
        vma = mm.find(address(page))
        state = model.get(page)
        assert (vma is None) == (state is None)
        if vma is None or state is None:
            continue
        prot, value = state
        assert vma.prot == prot
        try:
            data = mm.user.copy_in(UserAddress(address(page)), PAGE_SIZE)
        except Fault:
            assert not prot & READ
        else:
            assert prot & READ
            assert data == bytes([value]) * PAGE_SIZE


def apply(mm: MemoryManager, model: Model, operation: tuple[str, int, int, int]) -> tuple[MemoryManager, Model]:
    kind, page, count, argument = operation
    count = min(count, PAGES - page)
    start, end = address(page), address(page + count)
    touched = range(page, page + count)
    if kind == "map":
        mm.map_anonymous(start, end - start, argument)
        model.update({each: (argument, 0) for each in touched})
    elif kind == "unmap":
        mm.unmap(start, end)
        for each in touched:
            model.pop(each, None)
    elif kind == "protect":
        covered = 0
        while covered < count and page + covered in model:
            covered += 1
        try:
            mm.protect(start, end, argument)
        except OSError:
            assert covered < count
        else:
            assert covered == count
        for each in range(page, page + covered):
            model[each] = (argument, model[each][1])
    elif kind == "write":
        writable = 0
        while writable < count and model.get(page + writable, (0, 0))[0] & WRITE:
            writable += 1
        done = mm.user.copy_out(UserAddress(start), bytes([argument]) * (end - start))
        assert done == writable * PAGE_SIZE
        for each in range(page, page + writable):
            model[each] = (model[each][0], argument)
    elif kind == "discard":
        mm.discard(start, end)
        for each in touched:
            if each in model:
                model[each] = (model[each][0], 0)
    elif kind == "move":
        target = min(argument, PAGES - count)
        whole = len({model[each][0] for each in touched if each in model}) == 1 and all(each in model for each in touched)
        apart = target + count <= page or page + count <= target
        if whole and apart:
            assert remap(mm, start, end - start, end - start, may_move=True, place=address(target), hint=0, keep_old=False) == address(target)
            moved = [model.pop(each) for each in touched]
            model.update({target + index: state for index, state in enumerate(moved)})
    elif kind == "fork":
        child = new_space()
        mm.copy_to(child)
        mm.user.copy_out(UserAddress(start), b"\xee" * (end - start))  # must not show in the child
        return child, dict(model)
    return mm, model


@settings(max_examples=150, deadline=None)
@given(st.lists(operations, min_size=1, max_size=25))
def test_address_space_agrees_with_model(steps: list[tuple[str, int, int, int]]) -> None:
    mm, model = new_space(), {}
    for step in steps:
        mm, model = apply(mm, model, step)
        check(mm, model)
