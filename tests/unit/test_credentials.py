"""The setuid family against POSIX's and Linux's rules, capabilities, prctl's credential options."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from polynix.kernelproc.task.credentials import CAP_FULL_SET, Credentials
from polynix.kernelproc.uapi.capability import (
    _LINUX_CAPABILITY_VERSION_1,
    _LINUX_CAPABILITY_VERSION_3,
    CAP_CHOWN,
    CAP_KILL,
    CAP_NET_RAW,
    CAP_SETGID,
    CAP_SETPCAP,
    CAP_SETUID,
)
from polynix.kernelproc.uapi.errno import EINVAL, EPERM, ESRCH
from polynix.kernelproc.uapi.prctl import (
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_CAP_AMBIENT_IS_SET,
    PR_CAP_AMBIENT_RAISE,
    PR_CAPBSET_DROP,
    PR_CAPBSET_READ,
    PR_GET_DUMPABLE,
    PR_GET_KEEPCAPS,
    PR_GET_NAME,
    PR_GET_NO_NEW_PRIVS,
    PR_SET_KEEPCAPS,
    PR_SET_NAME,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_SECUREBITS,
    SECBIT_KEEP_CAPS,
    SECBIT_NO_SETUID_FIXUP,
    SECBIT_NOROOT,
)
from task_world import TaskWorld

UNCHANGED = (1 << 32) - 1
IDS = st.sampled_from((0, 1000, 1001, 1002))
MAYBE = st.sampled_from((0, 1000, 1001, 1002, UNCHANGED))


@pytest.fixture
def world() -> TaskWorld:
    return TaskWorld()


def ids(world: TaskWorld) -> tuple[int, int, int, int]:
    credentials = world.task.credentials
    return credentials.uid, credentials.euid, credentials.suid, credentials.fsuid


def become(world: TaskWorld, uid: int, euid: int, suid: int, *, privileged: bool = False) -> None:
    capabilities = CAP_FULL_SET if privileged else 0
    world.task.credentials = Credentials(uid, euid, suid, euid, uid, euid, suid, euid, (), capabilities, capabilities)


def test_root_gives_up_everything(world: TaskWorld) -> None:
    assert world.call("setuid", 1000) == 0
    assert ids(world) == (1000, 1000, 1000, 1000)
    assert world.task.credentials.cap_permitted == 0
    assert world.call("prctl", PR_GET_DUMPABLE) == 0
    assert world.call("setuid", 0) == -EPERM
    assert world.call("setuid", UNCHANGED) == -EINVAL
    assert [world.call(name) for name in ("getuid", "geteuid", "getgid", "getegid")] == [1000, 1000, 0, 0]


def test_set_user_id_program_switches_back_and_forth(world: TaskWorld) -> None:
    become(world, 1000, 0, 0, privileged=True)
    assert world.call("setresuid", UNCHANGED, 1000, UNCHANGED) == 0
    assert world.task.credentials.cap_effective == 0
    assert world.task.credentials.cap_permitted == CAP_FULL_SET
    assert world.call("setuid", 0) == 0
    assert ids(world) == (1000, 0, 0, 0)
    assert world.task.credentials.cap_effective == CAP_FULL_SET


@given(st.tuples(IDS, IDS, IDS), st.tuples(MAYBE, MAYBE, MAYBE), st.booleans())
def test_setresuid_rule(now: tuple[int, int, int], wanted: tuple[int, int, int], privileged: bool) -> None:
    world = TaskWorld()
    become(world, *now, privileged=privileged)
    allowed = privileged or all(value == UNCHANGED or value in now for value in wanted)
    result = world.call("setresuid", *wanted)
    assert result == (0 if allowed else -EPERM)
    after = tuple(old if value == UNCHANGED else value for old, value in zip(now, wanted, strict=True)) if allowed else now
    assert ids(world)[:3] == after
    assert world.task.credentials.fsuid == after[1]


@given(st.tuples(IDS, IDS, IDS), st.tuples(MAYBE, MAYBE), st.booleans())
def test_setreuid_rule(now: tuple[int, int, int], wanted: tuple[int, int], privileged: bool) -> None:
    world = TaskWorld()
    become(world, *now, privileged=privileged)
    uid, euid = wanted
    allowed = privileged or (uid in (UNCHANGED, now[0], now[1]) and euid in (UNCHANGED, *now))
    assert world.call("setreuid", uid, euid) == (0 if allowed else -EPERM)
    if allowed:
        new_euid = now[1] if euid == UNCHANGED else euid
        saved = new_euid if uid != UNCHANGED or (euid not in (UNCHANGED, now[0])) else now[2]
        assert ids(world)[:3] == (now[0] if uid == UNCHANGED else uid, new_euid, saved)


@given(st.tuples(IDS, IDS, IDS), st.tuples(MAYBE, MAYBE, MAYBE))
def test_group_ids_follow_the_same_rule(now: tuple[int, int, int], wanted: tuple[int, int, int]) -> None:
    world = TaskWorld()
    become(world, *now)
    allowed = all(value == UNCHANGED or value in now for value in wanted)
    assert world.call("setresgid", *wanted) == (0 if allowed else -EPERM)
    credentials = world.task.credentials
    after = tuple(old if value == UNCHANGED else value for old, value in zip(now, wanted, strict=True)) if allowed else now
    assert (credentials.gid, credentials.egid, credentials.sgid) == after


def test_file_system_uid(world: TaskWorld) -> None:
    assert world.call("setfsuid", 1000) == 0
    assert world.task.credentials.fsuid == 1000
    assert not world.task.credentials.has_capability(CAP_CHOWN)
    assert world.task.credentials.has_capability(CAP_KILL)
    assert world.call("setfsuid", UNCHANGED) == 1000
    assert world.call("setfsuid", 0) == 1000
    assert world.task.credentials.cap_effective == CAP_FULL_SET


def test_groups(world: TaskWorld) -> None:
    assert world.call("setgroups", 3, world.put(struct.pack("<3I", 30, 10, 20))) == 0
    out = world.put(bytes(12))
    assert world.call("getgroups", 0, 0) == 3
    assert world.call("getgroups", 2, out) == -EINVAL
    assert world.call("getgroups", -1, out) == -EINVAL
    assert world.call("getgroups", 9, out) == 3
    assert struct.unpack("<3I", world.get(out, 12)) == (10, 20, 30)
    assert world.task.credentials.in_group(20) and not world.task.credentials.in_group(21)
    assert world.call("setgroups", 65537, out) == -EINVAL
    world.call("setuid", 1000)
    assert world.call("setgroups", 0, 0) == -EPERM


def capabilities(world: TaskWorld, *, version: int = _LINUX_CAPABILITY_VERSION_3, pid: int = 0) -> tuple[int, tuple[int, ...]]:
    header = world.put(struct.pack("<Ii", version, pid))
    data = world.put(bytes(24))
    result = world.call("capget", header, data)
    return result, struct.unpack("<6I", world.get(data, 24))


def set_capabilities(world: TaskWorld, effective: int, permitted: int, inheritable: int, pid: int = 0) -> int:
    header = world.put(struct.pack("<Ii", _LINUX_CAPABILITY_VERSION_3, pid))
    values = [value >> 32 * word & 0xFFFFFFFF for word in range(2) for value in (effective, permitted, inheritable)]
    return world.call("capset", header, world.put(struct.pack("<6I", *values)))


def test_capget_versions(world: TaskWorld) -> None:
    high, low = CAP_FULL_SET >> 32, CAP_FULL_SET & 0xFFFFFFFF
    assert capabilities(world) == (0, (low, low, 0, high, high, 0))
    assert capabilities(world, version=_LINUX_CAPABILITY_VERSION_1) == (0, (low, low, 0, 0, 0, 0))
    assert capabilities(world, pid=-1)[0] == -EINVAL
    assert capabilities(world, pid=3_000_000)[0] == -ESRCH
    header = world.put(struct.pack("<Ii", 7, 0))
    assert world.call("capget", header, world.put(bytes(24))) == -EINVAL
    assert world.word(header) == _LINUX_CAPABILITY_VERSION_3
    assert world.call("capget", world.put(struct.pack("<Ii", 7, 0)), 0) == 0


def test_capset_only_shrinks(world: TaskWorld) -> None:
    kept = 1 << CAP_SETUID | 1 << CAP_NET_RAW
    assert set_capabilities(world, kept, kept, 0, pid=world.task.tid + 100) == -EPERM
    assert set_capabilities(world, kept, 0, 0) == -EPERM
    assert set_capabilities(world, kept, kept, kept) == 0
    assert set_capabilities(world, CAP_FULL_SET, CAP_FULL_SET, 0) == -EPERM
    assert set_capabilities(world, 0, kept, kept) == 0
    assert set_capabilities(world, kept, kept, kept) == 0
    assert set_capabilities(world, kept, kept, kept | 1 << CAP_SETGID) == -EPERM


def test_ambient_and_bounding_sets(world: TaskWorld) -> None:
    bit = 1 << CAP_NET_RAW
    assert world.call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_RAW) == -EPERM
    assert set_capabilities(world, CAP_FULL_SET, CAP_FULL_SET, bit) == 0
    assert world.call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_RAW) == 0
    assert world.call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_NET_RAW) == 1
    program = world.task.credentials.replace(uid=1000, euid=1000, suid=1000, fsuid=1000).for_exec(0o755, 0, 0)
    assert (program.cap_permitted, program.cap_effective, program.cap_ambient) == (bit, bit, bit)
    assert set_capabilities(world, CAP_FULL_SET, CAP_FULL_SET, 0) == 0
    assert world.task.credentials.cap_ambient == 0
    assert world.call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0) == 0
    assert world.call("prctl", PR_CAPBSET_READ, CAP_NET_RAW) == 1
    assert world.call("prctl", PR_CAPBSET_DROP, CAP_NET_RAW) == 0
    assert world.call("prctl", PR_CAPBSET_READ, CAP_NET_RAW) == 0
    assert world.call("prctl", PR_CAPBSET_READ, 99) == -EINVAL
    assert not world.task.credentials.for_exec(0o755, 0, 0).cap_permitted & bit


def test_set_id_programs() -> None:
    user = Credentials.user(1000, 1000, (1000, 2000))
    program = user.for_exec(0o4755, 0, 0)
    assert (program.uid, program.euid, program.suid, program.fsuid) == (1000, 0, 0, 0)
    assert program.cap_effective == program.cap_permitted == CAP_FULL_SET
    assert user.is_secure_exec(program)
    group = user.for_exec(0o2755, 0, 50)
    assert (group.egid, group.sgid) == (50, 50)
    assert user.is_secure_exec(group)
    assert user.for_exec(0o2745, 0, 50).egid == 1000  # mandatory locking's old mark, no set-gid
    for refused in (user.for_exec(0o6755, 0, 0, may_set_ids=False), user.for_exec(0o6755, 0, 0, no_new_privs=True)):
        assert (refused.euid, refused.egid, refused.cap_permitted) == (1000, 1000, 0)
        assert not user.is_secure_exec(refused)
    plain = user.for_exec(0o755, 0, 0)
    assert (plain.euid, plain.cap_permitted) == (1000, 0)
    root = Credentials.root()
    assert root.for_exec(0o755, 0, 0) == root
    assert root.replace(securebits=SECBIT_NOROOT).for_exec(0o755, 0, 0).cap_permitted == 0
    weakened = root.replace(cap_permitted=1, cap_effective=1)
    assert weakened.for_exec(0o755, 0, 0).cap_permitted == CAP_FULL_SET
    assert weakened.for_exec(0o755, 0, 0, no_new_privs=True).cap_permitted == 1


def test_secure_bits(world: TaskWorld) -> None:
    assert world.call("prctl", PR_SET_KEEPCAPS, 2) == -EINVAL
    assert world.call("prctl", PR_SET_KEEPCAPS, 1) == 0
    assert world.call("prctl", PR_GET_KEEPCAPS) == 1
    assert world.call("setresuid", 1000, 1000, 1000) == 0
    assert world.task.credentials.cap_permitted == CAP_FULL_SET
    assert world.task.credentials.cap_effective == 0
    assert world.task.credentials.for_exec(0o755, 0, 0).securebits & SECBIT_KEEP_CAPS == 0
    become(world, 0, 0, 0, privileged=True)
    locked = SECBIT_NO_SETUID_FIXUP | SECBIT_NO_SETUID_FIXUP << 1
    assert world.call("prctl", PR_SET_SECUREBITS, locked) == 0
    assert world.call("prctl", PR_SET_SECUREBITS, 0) == -EPERM
    assert world.call("setuid", 1000) == 0
    assert world.task.credentials.cap_effective == CAP_FULL_SET
    assert world.task.credentials.has_capability(CAP_SETPCAP)


def test_no_new_privs_and_name(world: TaskWorld) -> None:
    assert world.call("prctl", PR_SET_NO_NEW_PRIVS, 1, 1) == -EINVAL
    assert world.call("prctl", PR_SET_NO_NEW_PRIVS, 0) == -EINVAL
    assert world.call("prctl", PR_GET_NO_NEW_PRIVS) == 0
    assert world.call("prctl", PR_SET_NO_NEW_PRIVS, 1) == 0
    assert world.call("prctl", PR_GET_NO_NEW_PRIVS) == 1
    assert world.call("prctl", PR_SET_NAME, world.put(b"a name that is too long\0")) == 0
    out = world.put(bytes(16))
    assert world.call("prctl", PR_GET_NAME, out) == 0
    assert world.get(out, 16) == b"a name that is \0"
    assert world.call("prctl", 123456) == -EINVAL


def test_priorities_and_limits(world: TaskWorld) -> None:
    pid = world.task.pid
    assert world.call("getpriority", 0, 0) == 20
    assert world.call("setpriority", 0, pid, 5) == 0
    assert world.call("getpriority", 0, pid) == 15
    world.call("setuid", 1000)
    assert world.call("setpriority", 0, 0, 0) == -13
    assert world.call("setpriority", 0, 0, 30) == 0
    assert world.call("getpriority", 0, 0) == 1
    assert world.call("getpriority", 0, 3_000_000) == -ESRCH
    out = world.put(bytes(16))
    assert world.call("prlimit64", 0, 7, 0, out) == 0
    assert struct.unpack("<QQ", world.get(out, 16)) == (1024, 1 << 20)
    assert world.call("setrlimit", 7, world.put(struct.pack("<QQ", 10, 5))) == -EINVAL
    assert world.call("setrlimit", 7, world.put(struct.pack("<QQ", 10, 100))) == 0
    assert world.call("setrlimit", 7, world.put(struct.pack("<QQ", 10, 101))) == -EPERM
    assert world.call("getrlimit", 16, out) == -EINVAL
    other = world.process()
    assert world.call("prlimit64", other.pid, 7, 0, out) == -EPERM
    assert world.call("prlimit64", 3_000_000, 7, 0, out) == -ESRCH


def test_scheduling(world: TaskWorld) -> None:
    mask = world.put(bytes(8))
    assert world.call("sched_getaffinity", 0, 8, mask) == 8
    assert int.from_bytes(world.get(mask, 8), "little") == sum(1 << cpu for cpu in world.kernel.cpus)
    assert world.call("sched_getaffinity", 0, 7, mask) == -EINVAL
    assert world.call("sched_setaffinity", 0, 8, world.put(bytes(8))) == -EINVAL
    assert world.call("sched_setscheduler", 0, 1, world.put(struct.pack("<i", 50))) == 0
    assert world.call("sched_getscheduler", 0) == 1
    assert world.call("sched_setscheduler", 0, 0, world.put(struct.pack("<i", 50))) == -EINVAL
    assert world.call("sched_get_priority_max", 1) == 99
    assert world.call("sched_get_priority_max", 77) == -EINVAL
    world.task.credentials = Credentials.user(1000, 1000)
    assert world.call("sched_setscheduler", 0, 2, world.put(struct.pack("<i", 60))) == -EPERM
