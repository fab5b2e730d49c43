"""Which structs of the system-call ABI go into `kernelproc/uapi/structs.py`: the table that `generate_uapi` reads.

A line names the Python class, the C type, the header group and the members to expose. Where they lie, how wide and
how signed they are, and what is padding, is the compiler's to say. Member notation:

    name            an integer or pointer member
    name:s          an array or nested struct, as bytes
    name=path       a member under another Python name, e.g. `load1=loads[0]` or `it_value_sec=it_value.tv_sec`
"""

# ruff: noqa: E501 (a table)
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """One struct: its Python name, C type, members, headers; `size` overrides sizeof for headers of variable parts."""

    name: str
    ctype: str
    headers: tuple[str, ...]
    members: tuple[str, ...]
    size: str = ""
    prelude: str = ""


def layout(name: str, ctype: str, headers: str, members: str, size: str = "", prelude: str = "") -> Layout:
    return Layout(name, ctype, tuple(headers.split()), tuple(members.split()), size, prelude)


def numbered(pattern: str, count: int) -> str:
    """`numbered("load{0}=loads[{0}]", 3)`: one member for each element of a C array."""
    return " ".join(pattern.format(i) for i in range(count))


TIME, SIGNAL, SOCKET = "linux/time_types.h linux/time.h", "linux/types.h asm/signal.h asm/siginfo.h", "sys/socket.h"
SI = "si_signo si_errno si_code "
SIG = "_sifields."
REGISTERS = "r8 r9 r10 r11 r12 r13 r14 r15 rdi rsi rbp rbx rdx rax rcx rsp rip eflags cs gs fs ss err trapno oldmask cr2 fpstate"
IPC_PERM = " ".join(f"{member}={{0}}_perm.{member}" for member in ("key", "uid", "gid", "cuid", "cgid", "mode", "seq")) + " "
TERMIOS = "c_iflag c_oflag c_cflag c_lflag c_line c_cc:s"

LAYOUTS: tuple[Layout, ...] = (
    # files
    layout("stat", "struct stat", "sys/stat.h",              # glibc's: the same layout, and times are signed
           "st_dev st_ino st_nlink st_mode st_uid st_gid st_rdev st_size st_blksize st_blocks "
           + " ".join(f"st_{t}time=st_{t}tim.tv_sec st_{t}time_nsec=st_{t}tim.tv_nsec" for t in "amc")),
    layout("statx_timestamp", "struct statx_timestamp", "linux/stat.h", "tv_sec tv_nsec"),
    layout("statx", "struct statx", "linux/stat.h",
           "stx_mask stx_blksize stx_attributes stx_nlink stx_uid stx_gid stx_mode stx_ino stx_size stx_blocks stx_attributes_mask "
           + " ".join(f"stx_{t}_sec=stx_{t}.tv_sec stx_{t}_nsec=stx_{t}.tv_nsec" for t in ("atime", "btime", "ctime", "mtime"))
           + " stx_rdev_major stx_rdev_minor stx_dev_major stx_dev_minor stx_mnt_id stx_dio_mem_align stx_dio_offset_align"),
    layout("statfs", "struct statfs", "linux/types.h asm/statfs.h",
           "f_type f_bsize f_blocks f_bfree f_bavail f_files f_ffree f_fsid0=f_fsid.val[0] f_fsid1=f_fsid.val[1] f_namelen f_frsize f_flags"),
    layout("flock", "struct flock", "linux/fcntl.h", "l_type l_whence l_start l_len l_pid"),
    layout("f_owner_ex", "struct f_owner_ex", "linux/fcntl.h", "type pid"),
    layout("open_how", "struct open_how", "linux/openat2.h", "flags mode resolve"),
    layout("linux_dirent64", "struct dirent64", "dirent.h", "d_ino d_off d_reclen d_type", size="offsetof(struct dirent64, d_name)"),
    layout("linux_dirent", "struct linux_dirent", "dirent.h", "d_ino d_off d_reclen", size="offsetof(struct linux_dirent, d_name)",
           prelude="struct linux_dirent { unsigned long d_ino; unsigned long d_off; unsigned short d_reclen; char d_name[]; };  /* man 2 getdents */"),
    layout("file_handle", "struct file_handle", "fcntl.h", "handle_bytes handle_type"),
    layout("utimbuf", "struct utimbuf", "linux/types.h linux/utime.h", "actime modtime"),
    layout("iovec", "struct iovec", "linux/uio.h", "iov_base iov_len"),
    layout("mount_attr", "struct mount_attr", "linux/mount.h", "attr_set attr_clr propagation userns_fd"),
    layout("shmid64_ds", "struct shmid64_ds", "linux/shm.h",
           IPC_PERM.format("shm") + "shm_segsz shm_atime shm_dtime shm_ctime shm_cpid shm_lpid shm_nattch"),
    layout("shminfo64", "struct shminfo64", "linux/shm.h", "shmmax shmmin shmmni shmseg shmall"),
    layout("shm_info", "struct shm_info", "linux/shm.h", "used_ids shm_tot shm_rss shm_swp swap_attempts swap_successes"),
    layout("semid64_ds", "struct semid64_ds", "linux/sem.h", IPC_PERM.format("sem") + "sem_otime sem_ctime sem_nsems"),
    layout("sembuf", "struct sembuf", "linux/sem.h", "sem_num sem_op sem_flg"),
    layout("seminfo", "struct seminfo", "linux/sem.h", "semmap semmni semmns semmnu semmsl semopm semume semusz semvmx semaem"),
    layout("msqid64_ds", "struct msqid64_ds", "linux/msg.h",
           IPC_PERM.format("msg") + "msg_stime msg_rtime msg_ctime msg_cbytes msg_qnum msg_qbytes msg_lspid msg_lrpid"),
    layout("msginfo", "struct msginfo", "linux/msg.h", "msgpool msgmap msgmax msgmnb msgmni msgssz msgtql msgseg"),
    layout("mq_attr", "struct mq_attr", "linux/types.h linux/mqueue.h", "mq_flags mq_maxmsg mq_msgsize mq_curmsgs"),
    layout("iocb", "struct iocb", "linux/types.h linux/fs.h linux/aio_abi.h",
           "aio_data aio_rw_flags aio_lio_opcode aio_reqprio aio_fildes aio_buf aio_nbytes aio_offset aio_reserved2 aio_flags aio_resfd"),
    layout("io_event", "struct io_event", "linux/types.h linux/fs.h linux/aio_abi.h", "data obj res res2"),
    layout("inotify_event", "struct inotify_event", "linux/inotify.h", "wd mask cookie len"),
    layout("fsxattr", "struct fsxattr", "linux/fs.h", "fsx_xflags fsx_extsize fsx_nextents fsx_projid fsx_cowextsize"),
    layout("file_clone_range", "struct file_clone_range", "linux/fs.h", "src_fd src_offset src_length dest_offset"),
    layout("vfs_cap_data", "struct vfs_cap_data", "linux/capability.h",
           "magic_etc permitted0=data[0].permitted inheritable0=data[0].inheritable permitted1=data[1].permitted inheritable1=data[1].inheritable"),
    # time
    layout("timespec", "struct __kernel_timespec", TIME, "tv_sec tv_nsec"),
    layout("timeval", "struct __kernel_old_timeval", TIME, "tv_sec tv_usec"),
    layout("itimerspec", "struct __kernel_itimerspec", TIME,
           "it_interval_sec=it_interval.tv_sec it_interval_nsec=it_interval.tv_nsec it_value_sec=it_value.tv_sec it_value_nsec=it_value.tv_nsec"),
    layout("itimerval", "struct __kernel_old_itimerval", TIME,
           "it_interval_sec=it_interval.tv_sec it_interval_usec=it_interval.tv_usec it_value_sec=it_value.tv_sec it_value_usec=it_value.tv_usec"),
    layout("timezone", "struct timezone", TIME, "tz_minuteswest tz_dsttime"),
    layout("timex", "struct __kernel_timex", "linux/timex.h",
           "modes offset freq maxerror esterror status constant precision tolerance time_sec=time.tv_sec time_usec=time.tv_usec tick ppsfreq jitter "
           "shift stabil jitcnt calcnt errcnt stbcnt tai"),
    layout("tms", "struct tms", "linux/types.h linux/times.h", "tms_utime tms_stime tms_cutime tms_cstime"),
    # processes
    layout("rusage", "struct rusage", "linux/resource.h",
           "ru_utime_sec=ru_utime.tv_sec ru_utime_usec=ru_utime.tv_usec ru_stime_sec=ru_stime.tv_sec ru_stime_usec=ru_stime.tv_usec ru_maxrss ru_ixrss "
           "ru_idrss ru_isrss ru_minflt ru_majflt ru_nswap ru_inblock ru_oublock ru_msgsnd ru_msgrcv ru_nsignals ru_nvcsw ru_nivcsw"),
    layout("rlimit", "struct rlimit", "linux/resource.h", "rlim_cur rlim_max"),
    layout("rlimit64", "struct rlimit64", "linux/resource.h", "rlim_cur rlim_max"),
    layout("sysinfo", "struct sysinfo", "linux/types.h linux/sysinfo.h",
           "uptime load1=loads[0] load5=loads[1] load15=loads[2] totalram freeram sharedram bufferram totalswap freeswap procs totalhigh freehigh mem_unit"),
    layout("new_utsname", "struct new_utsname", "linux/utsname.h", "sysname:s nodename:s release:s version:s machine:s domainname:s"),
    layout("clone_args", "struct clone_args", "linux/types.h linux/sched.h",
           "flags pidfd child_tid parent_tid exit_signal stack stack_size tls set_tid set_tid_size cgroup"),
    layout("robust_list_head", "struct robust_list_head", "linux/futex.h", "list_next=list.next futex_offset list_op_pending"),
    layout("futex_waitv", "struct futex_waitv", "linux/types.h linux/futex.h", "val uaddr flags reserved=__reserved"),
    layout("kcmp_epoll_slot", "struct kcmp_epoll_slot", "linux/types.h linux/kcmp.h", "efd tfd toff"),
    layout("sched_param", "struct sched_param", "sched.h", "sched_priority"),
    layout("sched_attr", "struct sched_attr", "linux/types.h linux/sched/types.h",
           "size sched_policy sched_flags sched_nice sched_priority sched_runtime sched_deadline sched_period sched_util_min sched_util_max"),
    layout("user_cap_header", "struct __user_cap_header_struct", "linux/capability.h", "version pid"),
    layout("user_cap_data", "struct __user_cap_data_struct", "linux/capability.h", "effective permitted inheritable"),
    layout("seccomp_data", "struct seccomp_data", "linux/types.h linux/seccomp.h", "nr arch instruction_pointer " + numbered("arg{0}=args[{0}]", 6)),
    layout("sock_filter", "struct sock_filter", "linux/filter.h", "code jt jf k"),
    layout("sock_fprog", "struct sock_fprog", "linux/filter.h", "len filter"),
    layout("rseq", "struct rseq", "linux/rseq.h", "cpu_id_start cpu_id rseq_cs flags"),
    layout("user_desc", "struct user_desc", "asm/ldt.h", "entry_number base_addr limit"),
    layout("prctl_mm_map", "struct prctl_mm_map", "linux/prctl.h",
           "start_code end_code start_data end_data start_brk brk start_stack arg_start arg_end env_start env_end auxv auxv_size exe_fd"),
    # signals
    layout("sigaction", "struct sigaction", SIGNAL, "sa_handler sa_flags sa_restorer sa_mask"),
    layout("stack_t", "stack_t", SIGNAL, "ss_sp ss_flags ss_size"),
    layout("siginfo_kill", "siginfo_t", SIGNAL, SI + f"si_pid={SIG}_kill._pid si_uid={SIG}_kill._uid"),
    layout("siginfo_timer", "siginfo_t", SIGNAL,
           SI + f"si_timerid={SIG}_timer._tid si_overrun={SIG}_timer._overrun si_value={SIG}_timer._sigval.sival_ptr"),
    layout("siginfo_rt", "siginfo_t", SIGNAL, SI + f"si_pid={SIG}_rt._pid si_uid={SIG}_rt._uid si_value={SIG}_rt._sigval.sival_ptr"),
    layout("siginfo_sigchld", "siginfo_t", SIGNAL,
           SI + f"si_pid={SIG}_sigchld._pid si_uid={SIG}_sigchld._uid si_status={SIG}_sigchld._status "
                f"si_utime={SIG}_sigchld._utime si_stime={SIG}_sigchld._stime"),
    layout("siginfo_fault", "siginfo_t", SIGNAL, SI + f"si_addr={SIG}_sigfault._addr si_addr_lsb={SIG}_sigfault._addr_lsb"),
    layout("siginfo_poll", "siginfo_t", SIGNAL, SI + f"si_band={SIG}_sigpoll._band si_fd={SIG}_sigpoll._fd"),
    layout("siginfo_sys", "siginfo_t", SIGNAL, SI + f"si_call_addr={SIG}_sigsys._call_addr si_syscall={SIG}_sigsys._syscall si_arch={SIG}_sigsys._arch"),
    layout("siginfo_raw", "siginfo_t", SIGNAL, SI + f"sifields={SIG}_kill:s0"),
    layout("sigevent", "sigevent_t", SIGNAL, "sigev_value=sigev_value.sival_ptr sigev_signo sigev_notify sigev_tid=_sigev_un._tid"),
    layout("signalfd_siginfo", "struct signalfd_siginfo", "linux/signalfd.h",
           "ssi_signo ssi_errno ssi_code ssi_pid ssi_uid ssi_fd ssi_tid ssi_band ssi_overrun ssi_trapno ssi_status ssi_int ssi_ptr ssi_utime ssi_stime "
           "ssi_addr ssi_addr_lsb ssi_syscall ssi_call_addr ssi_arch"),
    layout("sigset_argpack", "struct sigset_argpack", "stddef.h", "ss ss_len",
           prelude="struct sigset_argpack { const void *ss; size_t ss_len; };  /* man 2 pselect6 */"),
    layout("sigcontext", "struct sigcontext", SIGNAL + " asm/sigcontext.h", REGISTERS),
    layout("ucontext", "struct ucontext", SIGNAL + " asm/sigcontext.h asm/ucontext.h",
           "uc_flags uc_link ss_sp=uc_stack.ss_sp ss_flags=uc_stack.ss_flags ss_size=uc_stack.ss_size "
           + " ".join(f"{r}=uc_mcontext.{r}" for r in REGISTERS.split()) + " uc_sigmask"),
    layout("fpstate", "struct _fpstate_64", SIGNAL + " asm/sigcontext.h",
           "cwd swd twd fop rip rdp mxcsr mxcsr_mask st_space:s xmm_space:s sw_magic1=sw_reserved.magic1 sw_extended_size=sw_reserved.extended_size "
           "sw_xfeatures=sw_reserved.xfeatures sw_xstate_size=sw_reserved.xstate_size"),
    # events
    layout("pollfd", "struct pollfd", "asm/poll.h", "fd events revents"),
    layout("epoll_event", "struct epoll_event", "linux/types.h linux/eventpoll.h", "events data"),
    # sockets
    layout("msghdr", "struct msghdr", SOCKET, "msg_name msg_namelen msg_iov msg_iovlen msg_control msg_controllen msg_flags"),
    layout("mmsghdr", "struct mmsghdr", SOCKET,
           " ".join(f"{m}=msg_hdr.{m}" for m in ("msg_name", "msg_namelen", "msg_iov", "msg_iovlen", "msg_control", "msg_controllen", "msg_flags")) + " msg_len"),
    layout("cmsghdr", "struct cmsghdr", SOCKET, "cmsg_len cmsg_level cmsg_type", size="offsetof(struct cmsghdr, __cmsg_data)"),
    layout("ucred", "struct ucred", SOCKET, "pid uid gid"),
    layout("linger", "struct linger", SOCKET, "l_onoff l_linger"),
    layout("sockaddr_un", "struct sockaddr_un", "linux/socket.h linux/un.h", "sun_family sun_path:s"),
    layout("sockaddr_in", "struct sockaddr_in", "netinet/in.h", "sin_family sin_port sin_addr:s"),
    layout("sockaddr_in6", "struct sockaddr_in6", "netinet/in.h", "sin6_family sin6_port sin6_flowinfo sin6_addr:s sin6_scope_id"),
    layout("sockaddr_nl", "struct sockaddr_nl", "linux/netlink.h", "nl_family nl_pid nl_groups"),
    layout("nlmsghdr", "struct nlmsghdr", "linux/netlink.h", "nlmsg_len nlmsg_type nlmsg_flags nlmsg_seq nlmsg_pid"),
    # terminals
    layout("termios", "struct termios", "asm/termbits.h", TERMIOS),
    layout("termios2", "struct termios2", "asm/termbits.h", TERMIOS + " c_ispeed c_ospeed"),
    layout("termio", "struct termio", "asm/termbits.h asm/termios.h", TERMIOS),
    layout("winsize", "struct winsize", "asm/termbits.h asm/termios.h", "ws_row ws_col ws_xpixel ws_ypixel"),
    # ELF
    layout("elf64_ehdr", "Elf64_Ehdr", "linux/elf.h",
           "e_ident:s e_type e_machine e_version e_entry e_phoff e_shoff e_flags e_ehsize e_phentsize e_phnum e_shentsize e_shnum e_shstrndx"),
    layout("elf64_phdr", "Elf64_Phdr", "linux/elf.h", "p_type p_flags p_offset p_vaddr p_paddr p_filesz p_memsz p_align"),
    layout("elf64_shdr", "Elf64_Shdr", "linux/elf.h", "sh_name sh_type sh_flags sh_addr sh_offset sh_size sh_link sh_info sh_addralign sh_entsize"),
    layout("elf64_sym", "Elf64_Sym", "linux/elf.h", "st_name st_info st_other st_shndx st_value st_size"),
    layout("elf64_dyn", "Elf64_Dyn", "linux/elf.h", "d_tag d_val=d_un.d_val"),
    layout("elf64_nhdr", "Elf64_Nhdr", "linux/elf.h", "n_namesz n_descsz n_type"),
)
