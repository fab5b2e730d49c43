"""The table: which formatter shows which argument of which call. Words that begin with ``>`` are known only when the call has
ended.

Calls that are not listed are shown by the types of their implementation (:func:`derived`), so that every call has a form.
"""

from __future__ import annotations

import typing

from polynix.kernelproc.strace import arguments as show
from polynix.kernelproc.strace.arguments import Formatter, array, enumeration, flag_set, structure
from polynix.kernelproc.syscalls import table, types

_WORDS: dict[str, Formatter] = {
    "addr": show.address, "path": show.path, "fd": show.descriptor, "dirfd": show.directory, "int": show.integer,
    "uint": show.unsigned, "size": show.unsigned, "long": show.long, "off": show.long, "hex": show.hexadecimal,
    "id": show.owner, "mode": show.mode, "fullmode": show.full_mode, "dev": show.device, "sig": show.signal,
    "open": show.open_flags, "openmode": show.open_permission, "argv": show.strings, "envp": show.environment,
    "buf1": show.input_buffer(1), "buf2": show.input_buffer(2), "buf3": show.input_buffer(3), "buf4": show.input_buffer(4),
    ">buf": show.output_buffer, ">path": show.output_path,
    "iov1": show.vector(1), "iov2": show.vector(2), ">iov2": show.vector(2, output=True),
    ">stat": structure(144, show.stat, output=True), ">statx": structure(256, show.statx, output=True),
    ">statfs": structure(120, show.ellipsis, output=True),
    "timespec": structure(16, show.timespec), ">timespec": structure(16, show.timespec, output=True),
    "timespecs": structure(32, lambda data: f"[{show.timespec(data[:16])}, {show.timespec(data[16:])}]"),
    "timeval": structure(16, show.timeval), ">timeval": structure(16, show.timeval, output=True),
    "itimerspec": structure(32, show.itimerspec), ">itimerspec": structure(32, show.itimerspec, output=True),
    "itimerval": structure(32, show.itimerval), ">itimerval": structure(32, show.itimerval, output=True),
    "sigset": structure(8, show.mask), ">sigset": structure(8, show.mask, output=True),
    "sigaction": structure(32, show.sigaction), ">sigaction": structure(32, show.sigaction, output=True),
    "sigstack": structure(24, show.stack), ">sigstack": structure(24, show.stack, output=True),
    "rlimit": structure(16, show.rlimit), ">rlimit": structure(16, show.rlimit, output=True),
    ">rusage": structure(144, show.ellipsis, output=True), ">sysinfo": structure(112, show.ellipsis, output=True),
    ">uname": structure(390, show.utsname, output=True), ">tms": structure(32, show.ellipsis, output=True),
    ">status": structure(4, show.wait_status, output=True), ">siginfo": structure(128, show.ellipsis, output=True),
    ">int": structure(4, show.number, output=True), ">intpair": structure(8, show.pair, output=True),
    "int32": structure(4, show.number), "off64": structure(8, show.number),
    "pollfds": array(1, 8, show.pollfd), "fdset": show.descriptor_set,
    "epoll_event": structure(12, show.epoll_event), ">epoll_events": array(2, 12, show.epoll_event, output=True, by_result=True),
    "sockaddr": show.socket_address_in(2), "sockaddr5": show.socket_address_in(5), ">sockaddr": show.socket_address_out(2),
    ">sockaddr5": show.socket_address_out(5), "msghdr": show.message, ">msghdr": show.message, "socktype": show.socket_type,
    "clone": show.clone_flags, "clone_args": show.clone_arguments, "futexop": show.futex_operation,
    "futextime": show.futex_timeout, "ioctl": show.ioctl_request, ">ioctlarg": show.ioctl_argument,
    ">fcntlarg": show.fcntl_argument,
}  # fmt: skip

_TABLE = """
accept fd >sockaddr >int
accept4 fd >sockaddr >int flags:sock_flags
access path flags:access:F_OK
alarm uint
arch_prctl enum:arch addr
bind fd sockaddr int
brk addr
capget addr addr
chdir path
chmod path mode
chown path id id
chroot path
clock_getres enum:clock >timespec
clock_gettime enum:clock >timespec
clock_nanosleep enum:clock flags:timer timespec >timespec
clone clone addr addr addr addr
clone3 clone_args size
close fd
close_range uint uint flags:close_range
connect fd sockaddr int
copy_file_range fd off64 fd off64 size hex
creat path mode
dup fd
dup2 fd fd
dup3 fd fd open
epoll_create int
epoll_create1 flags:epoll
epoll_ctl fd enum:epoll_ctl fd epoll_event
epoll_pwait fd >epoll_events int int sigset size
epoll_pwait2 fd >epoll_events int timespec sigset size
epoll_wait fd >epoll_events int int
eventfd uint
eventfd2 uint flags:efd
execve path argv envp
execveat dirfd path argv envp flags:at
exit int
exit_group int
faccessat dirfd path flags:access:F_OK
faccessat2 dirfd path flags:access:F_OK flags:at_access
fadvise64 fd off off enum:fadvise
fallocate fd flags:fallocate off off
fchdir fd
fchmod fd mode
fchmodat dirfd path mode
fchown fd id id
fchownat dirfd path id id flags:at
fcntl fd enum:fcntl >fcntlarg
fdatasync fd
flock fd int
fork
fstat fd >stat
fstatfs fd >statfs
fsync fd
ftruncate fd off
futex addr futexop int futextime addr int
getcpu >int >int addr
getcwd >path size
getdents64 fd addr size
getegid
geteuid
getgid
getgroups int addr
getitimer enum:itimer >itimerval
getpeername fd >sockaddr >int
getpgid int
getpgrp
getpid
getppid
getpriority enum:prio int
getrandom >buf size flags:grnd
getresgid >int >int >int
getresuid >int >int >int
getrlimit enum:rlimit >rlimit
getrusage enum:rusage >rusage
getsid int
getsockname fd >sockaddr >int
getsockopt fd enum:sol enum:so >int >int
gettid
gettimeofday >timeval addr
getuid
ioctl fd ioctl >ioctlarg
kill int sig
lchown path id id
link path path
linkat dirfd path dirfd path flags:at
listen fd int
lseek fd off enum:seek
lstat path >stat
madvise addr size enum:advice
membarrier enum:membarrier hex
memfd_create path flags:mfd
mincore addr size addr
mkdir path mode
mkdirat dirfd path mode
mknod path fullmode dev
mknodat dirfd path fullmode dev
mlock addr size
mlockall flags:mcl
mmap addr size flags:prot:PROT_NONE flags:map fd hex
mount path path path flags:mount addr
mprotect addr size flags:prot:PROT_NONE
mremap addr size size flags:mremap addr
msync addr size flags:ms
munlock addr size
munmap addr size
nanosleep timespec >timespec
newfstatat dirfd path >stat flags:at
open path open openmode
openat dirfd path open openmode
pause
personality hex
pidfd_getfd fd fd hex
pidfd_open int flags:pidfd
pidfd_send_signal fd sig addr hex
pipe >intpair
pipe2 >intpair open
poll pollfds uint int
ppoll pollfds uint timespec sigset size
prctl enum:pr hex hex hex hex
pread64 fd >buf size off
preadv fd >iov2 int off
preadv2 fd >iov2 int off hex flags:rwf
prlimit64 int enum:rlimit rlimit >rlimit
process_vm_readv int addr int addr int hex
process_vm_writev int addr int addr int hex
pselect6 int fdset fdset fdset timespec addr
pwrite64 fd buf2 size off
pwritev fd iov2 int off
pwritev2 fd iov2 int off hex flags:rwf
read fd >buf size
readlink path >buf size
readlinkat dirfd path >buf size
readv fd >iov2 int
recvfrom fd >buf size flags:msg >sockaddr5 >int
recvmsg fd >msghdr flags:msg
rename path path
renameat dirfd path dirfd path
renameat2 dirfd path dirfd path flags:rename
rmdir path
rseq addr hex hex hex
rt_sigaction sig sigaction >sigaction size
rt_sigpending >sigset size
rt_sigprocmask enum:sigmask sigset >sigset size
rt_sigqueueinfo int sig addr
rt_sigreturn
rt_sigsuspend sigset size
rt_sigtimedwait sigset >siginfo timespec size
sched_getaffinity int size addr
sched_getparam int addr
sched_getscheduler int
sched_setaffinity int size addr
sched_setscheduler int enum:sched addr
sched_yield
select int fdset fdset fdset timeval
sendfile fd fd off64 size
sendmsg fd msghdr flags:msg
sendto fd buf2 size flags:msg sockaddr5 int
set_robust_list addr size
set_tid_address addr
setfsgid id
setfsuid id
setgid id
setgroups size addr
setitimer enum:itimer itimerval >itimerval
setpgid int int
setpriority enum:prio int int
setregid id id
setresgid id id id
setresuid id id id
setreuid id id
setrlimit enum:rlimit rlimit
setsid
setsockopt fd enum:sol enum:so int32 int
setuid id
shutdown fd enum:shut
sigaltstack sigstack >sigstack
signalfd fd sigset size
signalfd4 fd sigset size flags:sfd
socket enum:af socktype int
socketpair enum:af socktype int >intpair
splice fd off64 fd off64 size flags:splice
stat path >stat
statfs path >statfs
statx dirfd path flags:at flags:statx >statx
symlink path path
symlinkat path dirfd path
sync
sysinfo >sysinfo
tee fd fd size flags:splice
tgkill int int sig
time addr
timer_create enum:clock addr >int
timer_delete int
timer_gettime int >itimerspec
timer_settime int flags:timer itimerspec >itimerspec
timerfd_create enum:clock flags:tfd
timerfd_gettime fd >itimerspec
timerfd_settime fd flags:tfd_set itimerspec >itimerspec
times >tms
tkill int sig
truncate path off
umask mode
umount2 path flags:umount
uname >uname
unlink path
unlinkat dirfd path flags:at_remove
unshare flags:clone
utimensat dirfd path timespecs flags:at
vfork
wait4 int >status flags:wait >rusage
waitid enum:p int >siginfo flags:waitid >rusage
write fd buf2 size
writev fd iov2 int
"""


class Signature:
    """How a call is shown: a formatter for each argument, and which of them must wait for the end."""

    __slots__ = ("formatters", "late", "name")

    def __init__(self, name: str, words: list[str]) -> None:
        self.name = name
        self.formatters = [_formatter(word) for word in words]
        late = [index for index, word in enumerate(words) if word.startswith(">")]
        self.late = late[0] if late else len(words)  # arguments from here on are shown at the end


def _formatter(word: str) -> Formatter:
    kind, _, rest = word.partition(":")
    if kind == "flags":
        key, _, zero = rest.partition(":")
        return flag_set(key, zero or "0")
    if kind == "enum":
        return enumeration(rest)
    return _WORDS[word]


_words = {line.split()[0]: line.split()[1:] for line in _TABLE.strip().splitlines()}
_signatures: dict[int, Signature] = {}


def signature(number: int) -> Signature:
    """The signature of a call; unknown numbers show six raw arguments, as strace does."""
    found = _signatures.get(number)
    if found is None:
        name = table.names.get(number)
        if name is None:
            found = Signature(f"syscall_{number:#x}", ["hex"] * 6)
        else:
            found = Signature(name, words_of(name))
        _signatures[number] = found
    return found


def words_of(name: str) -> list[str]:
    """The table's words for the arguments of a call."""
    return _words.get(name) or derived(name)


def derived(name: str) -> list[str]:
    """Words for a call that the table leaves out, from the annotations of its implementation."""
    function = table.functions.get(name)
    if function is None:
        return [] if name in _words else ["hex"] * 6
    words = []
    hints = typing.get_type_hints(function, include_extras=True, localns=table._annotation_names(function))
    for parameter, hint in hints.items():
        if parameter in ("task", "return"):
            continue
        if hint is types.UserAddress:
            words.append("path" if "path" in parameter or parameter in ("name", "filename") else "addr")
        elif "fd" in parameter:
            words.append("fd")
        elif hint in (types.ULong, types.Flags):
            words.append("hex")
        elif hint in (types.Int, types.Pid):
            words.append("int")
        else:
            words.append("long")
    return words
