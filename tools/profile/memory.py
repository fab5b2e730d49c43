"""Who shares memory with whom: the kernel's view of every two address spaces, and the host's view of the restricted processes held against it.

The kernel says what each mapping is (private, shared on request, file); the host says which pages the restricted processes really have, by page frame
number where the caller is root (``/proc/PID/pagemap``), by device, inode and offset of the mapping otherwise. Each page that two processes have must be
explained: both asked for it (MAP_SHARED of one object), or it is the same page of a file that neither can write, or it belongs to the restricted processes'
own read-only parts. Anything else is a violation. Processes run on while they are looked at, so what looks like a violation counts only if it is still
there in a second look.

Patched program text and its trampolines (``addrspace.text_store``) are read-only pages that processes share: the kernel names them, the one as file pages,
the others as its own.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy
from polynix.tools.inspection import Inspection

PAGE = 4096
CHUNK = 1 << 17  # pages read from pagemap at a time
MOST_PAGES = 1 << 22  # of one mapping; a sparse giant is looked at as far as that (16 GiB)
PRESENT = 1 << 63
FRAME = (1 << 55) - 1
KINDS = ("shared", "file", "stub")  # what explains a shared page
OTHER = len(KINDS)
MAX_VIOLATIONS = 1000

Pages = Any  # numpy array of unsigned 64-bit page identities


@dataclass
class HostMapping:
    """One line of the host's /proc/PID/maps."""

    start: int
    end: int
    writable: bool  # stores reach whoever else maps the page
    device: int
    inode: int
    offset: int
    name: str


@dataclass
class Violation:
    """A page that two processes have, and should not."""

    first: str
    second: str
    first_address: int
    second_address: int
    bytes: int
    reason: str


@dataclass
class MemoryReport:
    """Matrices are bytes, by kind, in the order of ``labels``; ``kinds`` of one process are bytes too."""

    labels: list[str]
    by_frame: bool  # verified by page frames, else by inodes and offsets
    kernel: dict[str, list[list[int]]] = field(default_factory=dict)
    host: dict[str, list[list[int]]] = field(default_factory=dict)
    processes: list[dict[str, Any]] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    checked_pages: int = 0
    unchecked_bytes: int = 0
    unreadable: list[str] = field(default_factory=list)  # processes that the caller may not look into


def host_mappings(pid: int) -> list[HostMapping]:
    """The host's view of one process. Errors: OSError."""
    found = []
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as file:
        for line in file:
            fields = line.split(None, 5)
            start, _, end = fields[0].partition("-")
            major, _, minor = fields[3].partition(":")
            mode = fields[1]
            name = fields[5].strip() if len(fields) > 5 else ""
            device = os.makedev(int(major, 16), int(minor, 16))
            found.append(HostMapping(int(start, 16), int(end, 16), mode[1] == "w" and mode[3] == "s", device, int(fields[4]), int(fields[2], 16), name))
    return found


def frames_are_visible() -> bool:
    """Whether pagemap shows page frame numbers to this process (CAP_SYS_ADMIN)."""
    data = bytearray(PAGE)
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as file:
            file.seek(id(data) // PAGE * 8)
            return bool(int.from_bytes(file.read(8), "little") & FRAME)
    except OSError:
        return False


class SpaceView:
    """The pages of one address space: identity, address, whether it may be stored to, and the kernel's mapping behind each (-1: none)."""

    def __init__(self, space: dict[str, Any], by_frame: bool) -> None:
        self.space = space
        self.label = ",".join(map(str, sorted(space["pids"]))) + f" {space['comm']}"
        self.unchecked_bytes = 0
        pages, addresses, writable = [], [], []
        for mapping in host_mappings(space["host_pid"]):
            if mapping.name == "[vsyscall]":
                continue
            count = (mapping.end - mapping.start) // PAGE
            if count > MOST_PAGES:
                self.unchecked_bytes += (count - MOST_PAGES) * PAGE
                count = MOST_PAGES
            if by_frame:
                identities, positions = _frames(space["host_pid"], mapping.start // PAGE, count)
            else:
                if not mapping.inode:
                    continue  # private to the process, unless it was forked; restricted processes are not
                positions = numpy.arange(count, dtype=numpy.uint64)
                identities = _identity(mapping.device, mapping.inode, mapping.offset // PAGE, count)
            pages.append(identities)
            addresses.append(positions * PAGE + mapping.start)
            writable.append(numpy.full(len(identities), mapping.writable))
        self.pages: Pages = numpy.concatenate(pages) if pages else numpy.empty(0, numpy.uint64)
        self.addresses: Any = numpy.concatenate(addresses) if addresses else numpy.empty(0, numpy.uint64)
        self.writable: Any = numpy.concatenate(writable) if writable else numpy.empty(0, bool)
        self.mappings = sorted(space["mappings"] + space["trampolines"], key=lambda mapping: int(mapping["start"]))
        starts = numpy.array([mapping["start"] for mapping in self.mappings], numpy.uint64)
        ends = numpy.array([mapping["end"] for mapping in self.mappings] + [0], numpy.uint64)
        index = numpy.searchsorted(starts, self.addresses, side="right").astype(numpy.int64) - 1
        self.owner: Any = numpy.where((index >= 0) & (self.addresses < ends[index]), index, -1)
        unowned = numpy.where(self.addresses >= space["guest_limit"], KINDS.index("stub"), OTHER)
        of_mapping = numpy.array([KINDS.index(each["kind"]) if each["kind"] in KINDS else OTHER for each in self.mappings] + [OTHER])
        bases = [_identity(each["device"], each["inode"], each["offset"] // PAGE, 1)[0] for each in self.mappings]
        base = numpy.array([*bases, 0], numpy.uint64)
        first = numpy.array([*(mapping["start"] for mapping in self.mappings), 0], numpy.uint64)
        owned = self.owner >= 0
        self.codes: Any = numpy.where(owned, of_mapping[self.owner], unowned)  # index of KINDS, or OTHER
        self.backings: Any = numpy.where(owned, base[self.owner] + (self.addresses - first[self.owner]) // PAGE, 0)

    def kind(self, position: int) -> str:
        """What the kernel says the page at ``position`` is: a mapping's kind, ``stub`` for polynix's own, ``nothing``."""
        owner = int(self.owner[position])
        if owner >= 0:
            return str(self.mappings[owner]["kind"])
        return "stub" if int(self.addresses[position]) >= self.space["guest_limit"] else "nothing"

    def backing(self, position: int) -> tuple[int, int, int]:
        """(device, inode, page offset) that the kernel's mapping names for the page."""
        mapping = self.mappings[int(self.owner[position])]
        return mapping["device"], mapping["inode"], (mapping["offset"] + int(self.addresses[position]) - mapping["start"]) // PAGE


def _frames(pid: int, first: int, count: int) -> tuple[Pages, Any]:
    """Frame numbers of the pages that are present, and their positions."""
    frames, positions = [], []
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as file:
        for done in range(0, count, CHUNK):
            file.seek((first + done) * 8)
            entries = numpy.frombuffer(file.read(min(CHUNK, count - done) * 8), numpy.uint64)
            present = numpy.flatnonzero(entries & numpy.uint64(PRESENT))
            frame = entries[present] & numpy.uint64(FRAME)
            real = frame != 0
            frames.append(frame[real])
            positions.append((present[real] + done).astype(numpy.uint64))
    if not frames:
        return numpy.empty(0, numpy.uint64), numpy.empty(0, numpy.uint64)
    return numpy.concatenate(frames), numpy.concatenate(positions)


def present_pages(pid: int, start: int, end: int) -> list[tuple[int, int]]:
    """Runs of pages of [start, end) that are present in a process, as (address, pages). Errors: OSError."""
    runs: list[tuple[int, int]] = []
    first, count = start // PAGE, min((end - start) // PAGE, MOST_PAGES)
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as file:
        for done in range(0, count, CHUNK):
            file.seek((first + done) * 8)
            entries = numpy.frombuffer(file.read(min(CHUNK, count - done) * 8), numpy.uint64)
            present = numpy.flatnonzero(entries & numpy.uint64(PRESENT))
            for run in numpy.split(present, numpy.flatnonzero(numpy.diff(present) != 1) + 1):
                if len(run):
                    runs.append(((first + done + int(run[0])) * PAGE, len(run)))
    return runs


_identities: dict[tuple[int, int], int] = {}


def _identity(device: int, inode: int, first: int, count: int) -> Pages:
    """Numbers for pages of a file: the file's number in the upper half, the page's in the lower."""
    number = _identities.setdefault((device, inode), len(_identities) + 1)
    return numpy.arange(first, first + count, dtype=numpy.uint64) + numpy.uint64(number << 40)


def pair_bytes(groups: Any, members: Any, size: int) -> Any:
    """Bytes that every two of ``size`` spaces have in common: ``groups`` numbers pages, ``members`` says who has each, both by occurrence."""
    matrix = numpy.zeros((size, size), numpy.int64)
    names, numbers = numpy.unique(groups, return_inverse=True)
    order = numpy.argsort(numbers, kind="stable")
    numbers, members = numbers[order], members[order]
    for first in range(0, len(names), CHUNK):
        low, high = numpy.searchsorted(numbers, (first, first + CHUNK))
        incidence = numpy.zeros((size, min(CHUNK, len(names) - first)), numpy.float32)
        incidence[members[low:high], numbers[low:high] - first] = 1
        matrix += (incidence @ incidence.T).astype(numpy.int64)
    numpy.fill_diagonal(matrix, 0)
    return matrix * PAGE


def kernel_matrix(spaces: list[dict[str, Any]]) -> dict[str, list[list[int]]]:
    """The kernel's view: bytes of objects and files that every two address spaces map in common, present or not."""
    matrices = {}
    for kind in ("shared", "file"):
        pages, members = [numpy.empty(0, numpy.uint64)], [numpy.empty(0, numpy.int64)]
        for index, space in enumerate(spaces):
            for each in space["mappings"]:
                if each["kind"] == kind and each["protection"] != "---":
                    count = min((each["end"] - each["start"]) // PAGE, MOST_PAGES)
                    pages.append(_identity(each["device"], each["inode"], each["offset"] // PAGE, count))
                    members.append(numpy.full(count, index))
        matrices[kind] = pair_bytes(numpy.concatenate(pages), numpy.concatenate(members), len(spaces)).tolist()
    return matrices


def _explain(first: SpaceView, at_first: int, second: SpaceView, at_second: int) -> tuple[str, str]:
    """(kind, "") when both may have the page, ("", reason) when not."""
    kinds = first.kind(at_first), second.kind(at_second)
    writable = bool(first.writable[at_first]), bool(second.writable[at_second])
    if kinds == ("shared", "shared"):
        if first.backing(at_first) == second.backing(at_second):
            return "shared", ""
        return "", "two shared objects have one page"
    if kinds == ("stub", "stub"):
        return ("stub", "") if not any(writable) else ("", "a writable page of polynix's own is shared")
    if kinds == ("file", "file"):
        if any(writable):
            return "", "a private map of a file is writable"
        if first.backing(at_first) == second.backing(at_second):
            return "file", ""
        return "", "two files have one page"
    if set(kinds) == {"file", "shared"}:
        if first.backing(at_first) != second.backing(at_second):
            return "", "a file and a shared object have one page"
        return ("file", "") if not any(writable) else ("", "a private map of a file that the other may write through a shared map")
    return "", f"a page of kind {kinds[0]} is also one of kind {kinds[1]}"


def _compare(views: list[SpaceView], report: MemoryReport) -> dict[tuple[int, int, int, int], Violation]:
    """Fill the host's matrices in, and return what can't be explained, by the two spaces and addresses."""
    size = len(views)
    matrices = {kind: numpy.zeros((size, size), numpy.int64) for kind in (*KINDS, "violation")}
    found: dict[tuple[int, int, int, int], Violation] = {}
    report.checked_pages = sum(len(view.pages) for view in views)
    if report.checked_pages:
        pages = numpy.concatenate([view.pages for view in views])
        order = numpy.argsort(pages, kind="stable")
        pages = pages[order]
        owners = numpy.concatenate([numpy.full(len(view.pages), index) for index, view in enumerate(views)])[order]
        places = numpy.concatenate([numpy.arange(len(view.pages)) for view in views])[order]
        codes = numpy.concatenate([view.codes for view in views])[order]
        backings = numpy.concatenate([view.backings for view in views])[order]
        writable = numpy.concatenate([view.writable for view in views])[order]
        starts = numpy.concatenate(([0], numpy.flatnonzero(numpy.diff(pages)) + 1))
        lengths = numpy.diff(numpy.concatenate((starts, [len(pages)])))
        # Most shared pages are what all who have them say they are: these are explained all at once.
        code = numpy.minimum.reduceat(codes, starts)
        uniform = (code == numpy.maximum.reduceat(codes, starts)) & (numpy.minimum.reduceat(backings, starts) == numpy.maximum.reduceat(backings, starts))
        written = numpy.maximum.reduceat(writable, starts)
        explained = numpy.zeros(len(starts), bool)
        for number, kind in enumerate(KINDS):
            plain = uniform & (code == number) & (lengths > 1) & ((number == KINDS.index("shared")) | ~written)
            chosen = numpy.repeat(plain, lengths)
            matrices[kind] += pair_bytes(pages[chosen], owners[chosen], size)
            explained |= plain
        rest = (lengths > 1) & ~explained
        for start, length in zip(starts[rest], lengths[rest], strict=True):
            members = {int(owners[index]): int(places[index]) for index in range(start, start + length)}
            _compare_page(views, members, matrices, found)
    report.host = {kind: matrix.tolist() for kind, matrix in matrices.items()}
    return found


def _compare_page(views: list[SpaceView], members: dict[int, int], matrices: dict[str, Any], found: dict[tuple[int, int, int, int], Violation]) -> None:
    """A page about which those who have it say different things: ``members`` are spaces and where it is in each."""
    spaces = sorted(members)
    for position, one in enumerate(spaces):
        for two in spaces[position + 1 :]:
            first, second = views[one], views[two]
            kind, reason = _explain(first, members[one], second, members[two])
            matrix = matrices[kind or "violation"]
            matrix[one, two] += PAGE
            matrix[two, one] += PAGE
            if not kind and len(found) < MAX_VIOLATIONS:
                addresses = int(first.addresses[members[one]]), int(second.addresses[members[two]])
                found[(one, two, *addresses)] = Violation(first.label, second.label, *addresses, PAGE, reason)


def _views(spaces: list[dict[str, Any]], report: MemoryReport) -> list[SpaceView]:
    views = []
    for space in spaces:
        try:
            views.append(SpaceView(space, report.by_frame))
        except PermissionError:
            report.unreadable.append(str(space["pids"]))
        except OSError:
            continue  # it ended
    return views


def look(inspection: Inspection) -> MemoryReport:
    """Both views of a running kernel's processes, and the violations that two looks agree on. Errors: NoKernel."""
    by_frame = frames_are_visible()
    report = MemoryReport([], by_frame)
    views = _views(inspection.request("maps"), report)
    report.labels = [view.label for view in views]
    found = _compare(views, report)
    report.kernel = kernel_matrix([view.space for view in views])
    report.unchecked_bytes = sum(view.unchecked_bytes for view in views)
    if found:
        again = MemoryReport([], by_frame)
        second = _views(inspection.request("maps"), again)
        if [view.label for view in second] == report.labels:
            still = _compare(second, again)
            report.violations = [violation for key, violation in found.items() if key in still]
        else:
            still_there = {(each.first, each.second, each.first_address) for each in _compare(second, again).values()}
            report.violations = [each for each in found.values() if (each.first, each.second, each.first_address) in still_there]
    report.processes = [_process_memory(view, index, report) for index, view in enumerate(views)]
    return report


def _process_memory(view: SpaceView, index: int, report: MemoryReport) -> dict[str, Any]:
    """One address space by kind, in bytes; the kernel's figures, and the host's page tables."""
    from polynix.kernelproc.host_accounting import page_table_bytes, resident_bytes

    by_kind = {"anonymous": 0, "copied": 0, "file": 0, "shared": 0}
    for mapping in view.space["mappings"]:
        by_kind[mapping["kind"]] += mapping["resident"]
    partners = {report.labels[other]: size for other, size in enumerate(report.host["shared"][index]) if size}
    return {
        "label": view.label,
        "pids": view.space["pids"],
        "host_pid": view.space["host_pid"],
        "private_bytes": by_kind["anonymous"] + by_kind["copied"],
        "file_bytes": by_kind["file"],
        "shared_bytes": by_kind["shared"],
        "shared_with": partners,
        "page_table_bytes": page_table_bytes(view.space["host_pid"]),
        "host_resident_bytes": resident_bytes(view.space["host_pid"]),
        "copied_bytes": view.space["copied_bytes"],
    }
