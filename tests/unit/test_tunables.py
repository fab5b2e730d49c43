"""What /proc/sys sets is obeyed, or counted as a gap."""

from __future__ import annotations

import pytest
from polynix.kernelproc import track_stub
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.task.credentials import Credentials
from polynix.kernelproc.tunables import TUNABLES, Tunables
from polynix.kernelproc.uapi.errno import EACCES, EPERM
from polynix.kernelproc.uapi.fcntl import O_CREAT, O_EXCL, O_RDONLY, O_RDWR
from vfs_world import World

USER, OTHER = 1000, 1001


def as_user(world: World, uid: int) -> None:
    world.credentials = Credentials(*[uid] * 8)


@pytest.fixture
def world() -> World:
    """A sticky directory for everybody, with a file, a fifo and links of USER's in it."""
    world = World()
    world.mkdir(b"/tmp")
    world.place(b"/tmp").node.mode |= 0o1777
    as_user(world, USER)
    world.open(b"/tmp/file", O_CREAT | O_RDWR, 0o666)
    world.place(b"/tmp/file").node.mode |= 0o666
    world.open(b"/tmp/private", O_CREAT | O_RDWR, 0o644)
    world.symlink(b"file", b"/tmp/link")
    as_user(world, OTHER)
    return world


def refuses(errno: int, function: object, *arguments: object) -> bool:
    try:
        function(*arguments)  # type: ignore[operator]
    except Errno as error:
        assert error.errno == errno
        return True
    return False


def set_tunable(world: World, name: str, value: int) -> None:
    world.kernel.expando.get(Tunables).set(name, value)


def test_protected_symlinks(world: World) -> None:
    assert not refuses(EACCES, world.open, b"/tmp/link")
    set_tunable(world, "fs.protected_symlinks", 1)
    assert refuses(EACCES, world.open, b"/tmp/link")
    assert refuses(EACCES, world.open, b"/tmp/link", O_CREAT | O_RDWR)
    assert not refuses(EACCES, world.place, b"/tmp/link", False), "looking at the link itself"
    as_user(world, USER)
    assert not refuses(EACCES, world.open, b"/tmp/link"), "its owner"


def test_protected_hardlinks(world: World) -> None:
    set_tunable(world, "fs.protected_hardlinks", 1)
    assert refuses(EPERM, world.link, b"/tmp/private", b"/tmp/mine")
    assert not refuses(EPERM, world.link, b"/tmp/file", b"/tmp/mine"), "it may be read and written"
    set_tunable(world, "fs.protected_hardlinks", 0)
    assert not refuses(EPERM, world.link, b"/tmp/private", b"/tmp/mine too")


def test_protected_regular(world: World) -> None:
    set_tunable(world, "fs.protected_regular", 1)
    assert refuses(EACCES, world.open, b"/tmp/file", O_CREAT | O_RDWR)
    assert not refuses(EACCES, world.open, b"/tmp/file", O_RDWR), "without O_CREAT"
    assert not refuses(EACCES, world.open, b"/tmp/new", O_CREAT | O_EXCL | O_RDWR)
    world.place(b"/tmp").node.mode = 0o041775
    world.place(b"/tmp").node.gid = OTHER
    assert not refuses(EACCES, world.open, b"/tmp/file", O_CREAT | O_RDONLY), "for a group's directory only level 2"
    set_tunable(world, "fs.protected_regular", 2)
    assert refuses(EACCES, world.open, b"/tmp/file", O_CREAT | O_RDONLY)


@pytest.mark.parametrize("name", TUNABLES)
def test_bounds_and_gaps(name: str) -> None:
    tunable = TUNABLES[name]
    values = Tunables()
    assert values.get(name) == tunable.default
    with pytest.raises(ValueError, match=name):
        values.set(name, tunable.low - 1)
    with pytest.raises(ValueError, match=name):
        values.set(name, tunable.high + 1)
    other = tunable.high if tunable.high != tunable.default else tunable.low
    before = sum(count for place, count in track_stub.counts.items() if place.message == f"sysctl {name}")
    values.set(name, other)
    assert values.get(name) == other
    after = sum(count for place, count in track_stub.counts.items() if place.message == f"sysctl {name}")
    assert after - before == (0 if tunable.obeyed is None else 1)
    values.set(name, tunable.default)
