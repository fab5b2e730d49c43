"""Which constants of the Linux UAPI go into which module of `kernelproc/uapi/`: the table that `generate_uapi` reads.

Each module is a list of groups, tried in order: the headers to include together, and a pattern of names to take from
them. The kernel's own headers (`linux/`, `asm/`) come first, since glibc's differ in places (O_LARGEFILE is 0 there);
glibc's fill in what the kernel's exported headers don't say (AF_*, SOCK_*, MSG_*, DT_*).
"""

# ruff: noqa: E501 (a table)
from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Group:
    """Headers that can be included together, and the names to take from them."""

    headers: tuple[str, ...]
    names: str                                                     # a regular expression, matched in full
    expressions: dict[str, str] = field(default_factory=dict)      # names that are spelled otherwise in C


@dataclass(frozen=True)
class Module:
    """One generated module: its name, what it is for, where its constants come from."""

    name: str
    title: str
    groups: tuple[Group, ...]


def module(name: str, title: str, *groups: Group) -> Module:
    return Module(name, title, groups)


MODULES: tuple[Module, ...] = (
    module("errno", "error numbers (man 3 errno)", Group(("asm/errno.h",), r"E[A-Z0-9]+"), Group(("errno.h",), r"ENOTSUP")),
    module(
        "fcntl", "flags of open, fcntl, *at calls, locks, fallocate, rename, splice (man 2 open, fcntl, openat2)",
        Group(
            ("linux/fcntl.h", "linux/falloc.h", "linux/openat2.h", "linux/fs.h", "linux/fadvise.h"),
            r"(O|F|AT|DN|RENAME|FALLOC|SEEK|LOCK|RESOLVE|FD|SYNC_FILE_RANGE|POSIX_FADV|RWF|RWH|FALLOC_FL|FS|FILE_DEDUPE)_[A-Z0-9_]+"
            r"|FI[A-Z]+|FD_CLOEXEC|OPEN_HOW_SIZE_VER0|NR_OPEN|INR_OPEN_(CUR|MAX)",
        ),
        Group(("fcntl.h", "sys/uio.h"), r"(O|F|AT|SPLICE_F|SYNC_FILE_RANGE|POSIX_FADV|LOCK|RWF|S_IF|MAX_HANDLE)_?[A-Z0-9_]+|FD_CLOEXEC"),
        Group(("unistd.h",), r"(R|W|X|F)_OK|(L_|SEEK_)[A-Z]+"),
    ),
    module(
        "stat", "file modes, statx masks and attributes (man 7 inode, man 2 statx)",
        Group(("linux/stat.h",), r"S_[A-Z]+|STATX_[A-Z0-9_]+"),
        Group(("sys/stat.h",), r"S_[A-Z]+|ACCESSPERMS|ALLPERMS|DEFFILEMODE|UTIME_(NOW|OMIT)"),
    ),
    module(
        "signal", "signals, actions, alternate stacks, si_code values (man 7 signal, man 2 sigaction)",
        Group(
            ("linux/signal.h", "asm/siginfo.h"),
            r"SIG[A-Z0-9]+|(SA|SI|SEGV|BUS|CLD|ILL|FPE|TRAP|POLL|SYS|SS|SIG|SIGEV|EMT)_[A-Z0-9_]+|(MIN)?SIGSTKSZ",
        ),
        Group(("signal.h",), r"_NSIG", {"SIGRTMAX": "__SIGRTMAX", "_NSIG": "__SIGRTMAX"}),
    ),
    module("poll", "events of poll (man 2 poll)", Group(("asm/poll.h",), r"POLL[A-Z_0-9]+")),
    module(
        "epoll", "epoll's operations, flags and events (man 2 epoll_ctl)",
        Group(("linux/types.h", "linux/eventpoll.h"), r"EPOLL[A-Z_0-9]+"),
        Group(("sys/epoll.h",), r"EPOLL[A-Z_0-9]+"),
    ),
    module("eventfd", "flags of eventfd (man 2 eventfd)", Group(("sys/eventfd.h",), r"EFD_[A-Z]+")),
    module("timerfd", "flags of timerfd (man 2 timerfd_create)", Group(("linux/timerfd.h",), r"TFD_[A-Z_0-9]+")),
    module("signalfd", "flags of signalfd (man 2 signalfd)", Group(("linux/signalfd.h",), r"SFD_[A-Z]+")),
    module("inotify", "inotify events and flags (man 7 inotify)", Group(("linux/inotify.h", "linux/fcntl.h"), r"IN_[A-Z_0-9]+")),
    module(
        "mman", "memory protection, maps, advice, memfds (man 2 mmap, madvise, memfd_create)",
        Group(
            ("linux/mman.h", "linux/memfd.h", "linux/mempolicy.h"),
            r"(PROT|MAP|MREMAP|MADV|MS|MFD|MCL|MLOCK|PKEY|MPOL|OVERCOMMIT)_[A-Z0-9_]+",
        ),
        Group(("sys/mman.h",), r"(PROT|MAP|MREMAP|MADV|MS|MFD|MCL|MLOCK)_[A-Z0-9_]+"),
    ),
    module("sched", "clone flags and scheduling policies (man 2 clone, sched)", Group(("linux/sched.h",), r"(CLONE|SCHED)_[A-Z0-9_]+|CSIGNAL"), Group(("sched.h",), r"SCHED_[A-Z]+|CPU_SETSIZE")),
    module(
        "futex", "futex operations and word bits (man 2 futex)",
        Group(("linux/futex.h",), r"(FUTEX|ROBUST_LIST)_[A-Z0-9_]+|FUTEX2?_[A-Z0-9_]+"),
    ),
    module(
        "prctl", "prctl and arch_prctl options, secure bits (man 2 prctl, arch_prctl)",
        Group(("linux/prctl.h", "asm/prctl.h", "linux/securebits.h"), r"(PR|ARCH)_[A-Z0-9_]+|SECUREBITS_[A-Z]+|SECBIT_[A-Z_]+|SECURE_[A-Z_]+"),
    ),
    module(
        "resource", "resource limits, usage, priorities (man 2 getrlimit, getrusage, getpriority)",
        Group(("linux/resource.h", "asm/resource.h"), r"(RLIMIT|RUSAGE|PRIO)_[A-Z0-9_]+|RLIM_NLIMITS|RLIM_INFINITY|RLIM64_INFINITY|_STK_LIM|MLOCK_LIMIT"),
        Group(("sys/resource.h",), r"(RUSAGE|PRIO)_[A-Z0-9_]+", {"RLIM64_INFINITY": "RLIM64_INFINITY"}),
        Group(("linux/ioprio.h",), r"IOPRIO_[A-Z_]+"),
    ),
    module(
        "time", "clocks, timers, clock adjustment (man 2 clock_gettime, timer_create, adjtimex)",
        Group(("linux/time.h", "linux/timex.h"), r"(CLOCK|ITIMER|ADJ|STA|MOD|TIME|NTP)_[A-Z0-9_]+|TIMER_ABSTIME|MAX_CLOCKS"),
        Group(("time.h",), r"TIMER_ABSTIME|CLOCKS_PER_SEC"),
    ),
    module(
        "socket", "address families, socket types, options, message flags (man 2 socket, man 7 socket, unix)",
        Group(("asm/socket.h",), r"(SO|SOL|SIOC|SCM)_?[A-Z0-9_]+"),
        Group(
            ("sys/socket.h", "netinet/in.h", "netinet/tcp.h"),
            r"(AF|PF|SOCK|SOL|SO|MSG|SCM|SHUT|IPPROTO|IPV6|IP|INADDR|TCP)_[A-Z0-9_]+|SOMAXCONN|UIO_MAXIOV",
        ),
        Group(("asm/ioctls.h", "linux/sockios.h", "asm/sockios.h"), r"SIOC[A-Z0-9]+"),
        Group(("linux/un.h",), r"UNIX_PATH_MAX|SIOCUNIXFILE"),
        Group(("linux/net.h",), r"SYS_[A-Z0-9]+"),
    ),
    module(
        "vm_sockets", "addresses and options of AF_VSOCK (man 7 vsock)",
        Group(("sys/socket.h", "asm/ioctl.h", "linux/vm_sockets.h"), r"(VMADDR|SO_VM_SOCKETS|IOCTL_VM_SOCKETS)_[A-Z0-9_]+"),
    ),
    module("netlink", "netlink families and message types (man 7 netlink)", Group(("linux/netlink.h",), r"(NETLINK|NLM|NLMSG)_[A-Z0-9_]+")),
    module(
        "ioctls", "ioctl request numbers of terminals, files, block devices (man 2 ioctl_tty)",
        Group(
            ("stddef.h", "linux/types.h", "asm/termbits.h", "asm/ioctls.h", "asm/termios.h", "linux/fs.h", "linux/fiemap.h", "linux/kd.h", "linux/vt.h", "linux/fd.h", "linux/hdreg.h", "linux/loop.h", "linux/random.h",
             "linux/rtc.h", "linux/nsfs.h", "linux/cdrom.h"),
            r"(TC|TIO|FIO|BLK|FIGETBSZ|FIBMAP|FIFREEZE|FITHAW|FITRIM|FICLONE|FIDEDUPE|FS_IOC|KD|VT_|LOOP_|RND|RTC_|NS_GET|CDROM|HDIO_GET|N_)[A-Z0-9_]*"
            r"|(IOC|_IOC)_?[A-Z]+",
        ),
    ),
    module(
        "termios", "terminal modes and control characters of the kernel's struct termios (man 3 termios)",
        Group(
            ("asm/termbits.h", "asm/termios.h"),
            r"V[A-Z0-9]+|B[0-9]+|BOTHER|I[A-Z0-9]+|O[A-Z]+|NL[0-9]|CR[0-9]|TAB[0-9]|[A-Z]{2,3}DLY|BS[0-9]|FF[0-9]|VT[0-9]|NLDLY|CRDLY|XTABS|C[A-Z0-9]+|PARENB|PARODD|HUPCL|BRKINT|PARMRK|"
            r"ECHO[A-Z]*|NOFLSH|TOSTOP|FLUSHO|PENDIN|EXTPROC|XCASE|TC[A-Z]+|TIOCM_[A-Z0-9]+|BS|FF|CRTSCTS|ADDRB|CMSPAR|NCCS?|CIBAUD|N_[A-Z]+",
        ),
        Group(("linux/tty.h",), r"N_[A-Z0-9]+"),
    ),
    module(
        "mount", "flags of mount, umount2 and the new mount calls (man 2 mount)",
        Group(("linux/mount.h",), r"(MS|MNT|OPEN_TREE|MOVE_MOUNT|FSOPEN|FSPICK|FSCONFIG|FSMOUNT|MOUNT_ATTR)_[A-Z0-9_]+"),
        Group(("sys/mount.h",), r"(MS|MNT|UMOUNT)_[A-Z0-9_]+"),
    ),
    module("wait", "options and id types of wait4 and waitid (man 2 waitid); __WALL is WALL as well, which a class body does not mangle", Group(("linux/wait.h",), r"W[A-Z]+|__W[A-Z]+|P_[A-Z]+",
                 {"WALL": "__WALL", "WCLONE": "__WCLONE", "WNOTHREAD": "__WNOTHREAD"})),
    module("capability", "capabilities (man 7 capabilities)",
           Group(("linux/capability.h",), r"CAP_[A-Z0-9_]+|_LINUX_CAPABILITY_[A-Z0-9_]+|VFS_CAP_[A-Z0-9_]+|XATTR_CAPS_SZ[_0-9]*")),
    module("seccomp", "seccomp modes, actions, BPF opcodes (man 2 seccomp)",
           Group(("linux/seccomp.h", "linux/filter.h", "linux/audit.h"), r"SECCOMP_[A-Z0-9_]+|BPF_[A-Z0-9_]+|AUDIT_ARCH_(X86_64|I386)|SKF_[A-Z0-9_]+")),
    module("auxvec", "auxiliary vector entries (man 3 getauxval)",
           Group(("linux/auxvec.h", "asm/auxvec.h", "asm/hwcap2.h"), r"AT_[A-Z0-9_]+|HWCAP2_[A-Z0-9_]+")),
    module(
        "elf", "the ELF format's numbers (man 5 elf)",
        Group(("linux/elf.h", "linux/elf-em.h"),
              r"(ET|PT|PF|SHT|SHF|DT|EM_X86|EM_386|STB|STT|ELFCLASS|ELFDATA|ELFOSABI|EI|EV|NT|GNU_PROPERTY)_?[A-Z0-9_]*|ELFMAG[0-3]|SELFMAG|ELFMAG|EM_NONE|PN_XNUM|EM_AARCH64"),
    ),
    module(
        "limits", "limits that programs may rely on (limits.h)",
        Group(("linux/limits.h", "asm/param.h"), r"[A-Z]+_MAX|PIPE_BUF|EXEC_PAGESIZE|HZ|NOGROUP|MAXHOSTNAMELEN|XATTR_[A-Z_]+"),
        Group(("limits.h",), r"(IOV|NAME|PATH|HOST_NAME|LOGIN_NAME|SSIZE|INT|UINT|LONG|ULONG)_(MAX|MIN)|_POSIX_[A-Z_]+"),
        Group(("linux/uio.h",), r"UIO_[A-Z]+"),
        Group(("asm/param.h", "linux/binfmts.h"), r"MAX_ARG_STR[A-Z]+|BINPRM_BUF_SIZE"),
    ),
    module("magic", "filesystem types of statfs (man 2 statfs)", Group(("linux/magic.h",), r"[A-Z0-9_]+_(SUPER_)?MAGIC[A-Z0-9_]*|MNT_NS_[A-Z]+|[A-Z0-9]+FS_[A-Z0-9_]*MAGIC|STACK_END_MAGIC")),
    module("utsname", "lengths of uname's fields (man 2 uname)", Group(("linux/utsname.h",), "", {"OLD_UTS_LEN": "__OLD_UTS_LEN", "NEW_UTS_LEN": "__NEW_UTS_LEN"})),
    module("reboot", "reboot commands (man 2 reboot)", Group(("linux/reboot.h",), r"LINUX_REBOOT_[A-Z0-9_]+")),
    module("personality", "personality flags (man 2 personality)",
           Group(("linux/personality.h",), r"PER_[A-Z0-9_]+|ADDR_[A-Z0-9_]+|UNAME26|FDPIC_FUNCPTRS|MMAP_PAGE_ZERO|READ_IMPLIES_EXEC|SHORT_INODE|WHOLE_SECONDS|STICKY_TIMEOUTS")),
    module("membarrier", "membarrier commands (man 2 membarrier)", Group(("linux/membarrier.h",), r"MEMBARRIER_[A-Z0-9_]+")),
    module("rseq", "restartable sequences (linux/rseq.h)", Group(("linux/rseq.h",), r"RSEQ_[A-Z0-9_]+")),
    module("xattr", "extended attributes (man 7 xattr)", Group(("linux/xattr.h", "linux/limits.h"), r"XATTR_[A-Z0-9_]+")),
    module("acl", "POSIX ACL xattrs (linux/posix_acl.h)", Group(("linux/types.h", "linux/posix_acl.h", "linux/posix_acl_xattr.h"), r"ACL_[A-Z_]+|POSIX_ACL_[A-Z_]+")),
    module("quota", "quotactl commands (man 2 quotactl)", Group(("linux/quota.h",), r"(Q|QFMT|QIF|IIF|QUOTA)_[A-Z0-9_]+|[A-Z]{3}QUOTA|SUBCMD[A-Z]+|MAXQUOTAS")),
    module("dirent", "file types in directory entries (man 3 readdir)", Group(("dirent.h",), r"DT_[A-Z]+")),
    module("random", "flags of getrandom (man 2 getrandom)", Group(("linux/random.h",), r"GRND_[A-Z]+|RND[A-Z]+")),
    module("close_range", "flags of close_range (man 2 close_range)", Group(("linux/close_range.h",), r"CLOSE_RANGE_[A-Z]+")),
    module("pidfd", "flags of pidfd_open (man 2 pidfd_open)", Group(("linux/pidfd.h",), r"PIDFD_[A-Z]+")),
    module("kcmp", "kcmp types (man 2 kcmp)", Group(("linux/kcmp.h",), r"KCMP_[A-Z_]+")),
    module("syslog", "priorities and syslog actions (man 2 syslog)", Group(("sys/syslog.h", "sys/klog.h"), r"LOG_[A-Z0-9]+")),
    module("ipc", "System V IPC (man 7 sysvipc)",
           Group(("linux/ipc.h", "linux/shm.h", "linux/sem.h", "linux/msg.h"), r"(IPC|SHM|SEM|MSG)_[A-Z0-9_]+|(SHM|SEM|MSG)[A-Z]+|GET(VAL|ALL|PID|NCNT|ZCNT)|SET(VAL|ALL)")),
    module("mqueue", "POSIX message queues (man 7 mq_overview)", Group(("linux/types.h", "linux/mqueue.h"), r"(MQ|NOTIFY)_[A-Z]+")),
    module("aio", "asynchronous input and output (man 2 io_submit)", Group(("linux/types.h", "linux/fs.h", "linux/aio_abi.h"), r"(IOCB|IOCB_FLAG)_[A-Z]+(_[A-Z]+)?|RWF_[A-Z]+")),
    module("ptrace", "ptrace requests and options (man 2 ptrace)", Group(("linux/ptrace.h", "asm/ptrace-abi.h"), r"PTRACE_[A-Z0-9_]+")),
    module("major", "device major numbers (linux/major.h)", Group(("linux/major.h",), r"[A-Z0-9_]+_MAJOR")),
    module("processor_flags", "bits of RFLAGS and control registers (asm/processor-flags.h)",
           Group(("asm/processor-flags.h",), r"X86_(EFLAGS|CR[04]|DR[67]?)_[A-Z0-9_]+")),
    module("sigcontext", "marks of the extended signal frame (asm/sigcontext.h)",
           Group(("asm/sigcontext.h", "asm/signal.h", "asm/ucontext.h"), r"FP_XSTATE_[A-Z0-9_]+|UC_[A-Z_0-9]+|X86_FXSR_MAGIC")),
    module("keyctl", "keyctl special keyrings (man 2 keyctl)", Group(("linux/keyctl.h",), r"KEY_SPEC_[A-Z_]+|KEYCTL_[A-Z0-9_]+")),
)
