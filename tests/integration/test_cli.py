"""``polynix run`` as a user meets it: streams, exit statuses, options, signals, and what is left behind.

Each test starts real containers.
"""

from __future__ import annotations

import glob
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import wait_until

POLYNIX = [sys.executable, "-m", "polynix.tools.start"]


def polynix(*arguments: str | os.PathLike[str], **options: object) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    options.setdefault("stdin", subprocess.DEVNULL)
    if "input" in options:
        del options["stdin"]
    return subprocess.run([*POLYNIX, *arguments], capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload,no-any-return]


@pytest.fixture
def run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place of its own for run directories, so that what is left behind can be seen."""
    directory = tmp_path / "xdg"
    directory.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    return directory


@pytest.fixture
def background() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that a failed test must not leave behind."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def start(background: list[subprocess.Popen[str]], *arguments: str, **options: object) -> subprocess.Popen[str]:
    process = subprocess.Popen([*POLYNIX, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload]
    background.append(process)
    return process  # type: ignore[no-any-return]


def processes_of(command_line: int) -> list[int]:
    """The runner, the launcher and the kernel process below a ``polynix run``."""
    found = []
    for _ in range(3):
        (command_line,) = children_of(command_line)
        found.append(command_line)
    return found


def children_of(pid: int) -> list[int]:
    """The processes whose parent is ``pid``."""
    found = []
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            with open(path) as file:
                fields = file.read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(path.split("/")[2]))
    return found


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


# -- streams and statuses -----------------------------------------------------------------------------------------------------


def test_output_and_status() -> None:
    result = polynix("run", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (result.stdout, result.stderr, result.returncode) == ("out\n", "err\n", 7)


def test_input_is_the_callers() -> None:
    assert polynix("run", "tr", "a-z", "A-Z", input="hello\n").stdout == "HELLO\n"


def test_a_large_stream_passes_through_pipes() -> None:
    text = "0123456789abcdef" * 65536
    assert polynix("run", "cat", input=text).stdout == text


def test_files_share_their_offset_with_the_caller(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("first\nsecond\nthird\n")
    target = tmp_path / "target"
    with open(source) as stdin, open(target, "w") as stdout:
        stdout.write("before\n")
        stdout.flush()
        for _ in range(2):
            subprocess.run([*POLYNIX, "run", "sh", "-c", "read line; echo got $line"], stdin=stdin, stdout=stdout, check=True, timeout=60)
        stdout.seek(0, os.SEEK_END)
        assert stdin.buffer.raw.tell() == len("first\nsecond\n")  # type: ignore[attr-defined]
        stdout.write("after\n")
    assert target.read_text() == "before\ngot first\ngot second\nafter\n"


def test_nonblocking_mode_stays_with_the_guest() -> None:
    reader, writer = os.pipe()
    try:
        script = "import os; os.set_blocking(0, False); os.set_blocking(1, False); print('ok')"
        result = subprocess.run([*POLYNIX, "run", "python3", "-c", script], stdin=reader, stdout=writer, timeout=60, check=True)
        assert result.returncode == 0
        assert os.get_blocking(reader) and os.get_blocking(writer)
        assert os.read(reader, 10) == b"ok\n"
    finally:
        os.close(reader)
        os.close(writer)


def test_standard_streams_open_again_by_name() -> None:
    assert polynix("run", "sh", "-c", "cat /dev/stdin; echo x > /dev/stdout", input="in\n").stdout == "in\nx\n"


def test_a_closed_reader_ends_the_writer() -> None:
    shell = f"{' '.join(POLYNIX)} run yes | head -2"
    result = subprocess.run(["bash", "-o", "pipefail", "-c", shell], capture_output=True, text=True, timeout=60)
    assert result.stdout == "y\ny\n"
    assert result.returncode == 128 + signal.SIGPIPE


def test_statuses_of_failed_starts(tmp_path: Path) -> None:
    assert polynix("run", "no-such-program").returncode == 127
    assert polynix("run", "/no/such/program").returncode == 127
    plain = tmp_path / "plain"
    plain.write_text("text\n")
    plain.chmod(0o644)
    result = polynix("run", str(plain))
    assert (result.returncode, result.stdout) == (126, "")
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("polynix: ")
    assert polynix("run", "/").returncode == 126
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF" + bytes(60))
    broken.chmod(0o755)
    assert polynix("run", str(broken)).returncode == 126


def test_a_signal_shows_in_the_status() -> None:
    assert polynix("run", "sh", "-c", "kill -KILL $$").returncode == 137
    assert polynix("run", "sh", "-c", "kill -TERM $$").returncode == 143


def test_nothing_is_written_to_the_host(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("host\n")
    result = polynix("run", "sh", "-c", f"echo guest > {kept}; cat {kept}; touch {tmp_path}/new; ls {tmp_path}")
    assert result.stdout == "guest\nkept\nnew\n"
    assert kept.read_text() == "host\n" and os.listdir(tmp_path) == ["kept"]


# -- options ------------------------------------------------------------------------------------------------------------------


def test_directory_environment_user_and_hostname(tmp_path: Path) -> None:
    assert polynix("run", "pwd", cwd=tmp_path).stdout == f"{tmp_path}\n"
    assert polynix("run", "--workdir", "/usr/bin", "pwd").stdout == "/usr/bin\n"
    assert polynix("run", "--env", "A=1", "-e", "B=two words", "sh", "-c", "echo $A,$B").stdout == "1,two words\n"
    variables = tmp_path / "env"
    variables.write_text("# comment\n\nC=3\nD=a=b\n")
    assert polynix("run", "--env-file", str(variables), "--env", "C=4", "sh", "-c", "echo $C,$D").stdout == "4,a=b\n"
    assert polynix("run", "--user", "1000:1001", "id", "-u").stdout == "1000\n"
    assert polynix("run", "--user", "1000:1001", "id", "-g").stdout == "1001\n"
    assert polynix("run", "--user", "7", "sh", "-c", "id -u; id -g").stdout == "7\n7\n"
    assert polynix("run", "--hostname", "box", "uname", "-n").stdout == "box\n"


def test_options_end_where_the_program_begins() -> None:
    assert polynix("run", "echo", "--version", "-h", "--", "x").stdout == "--version -h -- x\n"
    assert polynix("run", "--", "echo", "a").stdout == "a\n"
    assert polynix("run", "--strace", "true").returncode == 0


def test_binds(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("content\n")
    result = polynix("run", "--bind", f"{source}:/mnt/bound", "sh", "-c", "cat /mnt/bound/file; echo new > /mnt/bound/made")
    assert result.stdout == "content\n" and (source / "made").read_text() == "new\n"
    result = polynix("run", "--bind", f"{source}:/mnt/bound:ro", "sh", "-c", "echo x > /mnt/bound/other")
    assert result.returncode != 0 and not (source / "other").exists()


def test_another_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    busybox = next((path for path in ("/bin/busybox", "/usr/bin/busybox") if os.path.exists(path)), None)
    if busybox is None:
        pytest.skip("no busybox")
    (root / "bin" / "busybox").write_bytes(Path(busybox).read_bytes())
    (root / "bin" / "busybox").chmod(0o755)
    (root / "only-here").write_text("")
    result = polynix("run", "--rootfs", str(root), "/bin/busybox", "ls", "/")
    assert result.returncode == 0, result.stderr
    assert {"bin", "only-here", "proc", "dev"} <= set(result.stdout.split())
    assert "etc" not in result.stdout.split()
    assert polynix("run", "--rootfs", str(root), "/bin/busybox", "pwd").stdout == "/\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rootfs", "/no/such/root"],
        ["--rootfs", "/etc/passwd"],
        ["--bind", "nonsense"],
        ["--bind", "/no/such/source:/mnt"],
        ["--bind", "/tmp:relative"],
        ["--bind", "/tmp:/mnt:rx"],
        ["--workdir", "/no/such/directory"],
        ["--env", "=x"],
        ["--env-file", "/no/such/file"],
        ["--user", "nobody"],
        ["--user", "1:x"],
        ["--user", "-1"],
        ["--hostname", "x" * 65],
        ["--feature", "no-such-feature"],
        ["--memory", "lots"],
        ["--memory", "-1"],
        ["--pids", "0"],
        ["--pids", "many"],
        ["--strace=no_such_call"],
        ["--strace=/("],
        ["--strace", "--strace-file", "/no/such/directory/file"],
        ["--log-level", "loud"],
        ["--no-such-option"],
    ],
)
def test_bad_options_are_one_line_and_125(arguments: list[str], run_directory: Path) -> None:
    result = polynix("run", *arguments, "true")
    assert result.returncode == 125, result
    assert result.stderr.startswith("polynix: ") and result.stderr.count("\n") == 1, result.stderr
    assert "Traceback" not in result.stderr and result.stdout == ""
    assert os.listdir(run_directory) == []


def test_no_program() -> None:
    result = polynix("run")
    assert result.returncode == 125 and result.stderr.count("\n") == 1


def test_a_root_that_cannot_be_read(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    root = tmp_path / "locked"
    root.mkdir(mode=0)
    result = polynix("run", "--rootfs", str(root), "true")
    assert result.returncode == 125 and result.stderr.count("\n") == 1


def test_help_and_version() -> None:
    result = polynix("run", "--help")
    assert result.returncode == 0
    for word in ("--rootfs", "--bind", "--strace", "Examples:", "polynix run bash", "125"):
        assert word in result.stdout
    assert polynix("--version").stdout.startswith("polynix 0.")
    assert polynix("--help").returncode == 0


def test_strace_filters_and_file(tmp_path: Path) -> None:
    result = polynix("run", "--strace=%file,exit_group", "cat", "/etc/hostname")
    lines = result.stderr.splitlines()
    assert any(line.startswith('openat(AT_FDCWD, "/etc/hostname", O_RDONLY) = ') for line in lines)
    assert lines[-2].startswith("exit_group(0)") and lines[-1] == "+++ exited with 0 +++"
    assert not any(line.startswith(("read(", "mmap(")) for line in lines)
    output = tmp_path / "trace"
    result = polynix("run", "--strace=!%memory", "--strace-file", str(output), "sh", "-c", "kill -USR1 $$")
    assert result.stderr == "" and result.returncode == 128 + signal.SIGUSR1
    text = output.read_text()
    assert "kill(1, SIGUSR1)" in text and "+++ killed by SIGUSR1 +++" in text
    assert "mmap(" not in text


def test_strace_of_several_processes() -> None:
    result = polynix("run", "--strace=wait4,clone,exit_group", "sh", "-c", "sleep 0.1; true")
    assert "<unfinished ...>" in result.stderr and "<... wait4 resumed>" in result.stderr
    assert "[pid     3] exit_group(0)" in result.stderr


# -- signals and the end ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_reach_the_program(number: signal.Signals, background: list[subprocess.Popen[str]]) -> None:
    name = number.name.removeprefix("SIG")
    script = f"trap 'echo got {name}; exit 5' {name}; echo ready; while :; do sleep 0.05; done"
    process = start(background, "run", "sh", "-c", script)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(number)
    output, _ = process.communicate(timeout=20)
    assert (output, process.returncode) == (f"got {name}\n", 5)


def test_an_interrupt_ends_an_ordinary_program(background: list[subprocess.Popen[str]]) -> None:
    process = start(background, "run", "sh", "-c", "echo ready; exec sleep 100")
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert process.stderr is not None and process.stderr.read() == ""


def test_background_processes_end_with_the_container(background: list[subprocess.Popen[str]], run_directory: Path) -> None:
    process = start(background, "run", "sh", "-c", "sleep 1000 & sleep 1001 & echo ready; read x; exit 0")
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    assert process.wait(10) == 0
    assert os.listdir(run_directory) == []


def test_killing_the_command_line_ends_the_container(background: list[subprocess.Popen[str]], run_directory: Path) -> None:
    process = start(background, "run", "sh", "-c", "echo ready; exec sleep 1000")
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    above = processes_of(process.pid)
    stubs = children_of(above[-1])
    assert stubs and len(os.listdir(run_directory)) == 1
    process.kill()
    assert wait_until(lambda: not any(alive(pid) for pid in above + stubs), 2.0)
    assert wait_until(lambda: os.listdir(run_directory) == [], 2.0)


def test_killing_the_kernel_is_an_error_of_one_line(background: list[subprocess.Popen[str]], run_directory: Path) -> None:
    process = start(background, "run", "sh", "-c", "echo ready; exec sleep 1000")
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    kernel = processes_of(process.pid)[-1]
    stubs = children_of(kernel)
    os.kill(kernel, signal.SIGKILL)
    assert process.wait(5) == 125
    assert process.stderr is not None
    assert process.stderr.read() == "polynix: the kernel process died (signal 9)\n"
    assert wait_until(lambda: not any(alive(pid) for pid in stubs), 2.0)
    assert os.listdir(run_directory) == []


def test_the_next_start_sweeps_what_many_kills_left(background: list[subprocess.Popen[str]], run_directory: Path) -> None:
    process = start(background, "run", "sh", "-c", "echo ready; exec sleep 1000")
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    others = processes_of(process.pid)
    for pid in others:
        os.kill(pid, signal.SIGSTOP)  # so that it cannot clean up
    process.kill()
    process.wait()
    for pid in others:
        os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not any(alive(pid) for pid in others))
    assert len(os.listdir(run_directory)) == 1
    assert polynix("run", "true").returncode == 0
    assert os.listdir(run_directory) == []


def test_two_containers_do_not_see_each_other(background: list[subprocess.Popen[str]]) -> None:
    first = start(background, "run", "sh", "-c", "echo one > /tmp/polynix-mark; echo ready; exec sleep 20")
    assert first.stdout is not None and first.stdout.readline() == "ready\n"
    assert polynix("run", "cat", "/tmp/polynix-mark").returncode == 1
    first.terminate()
    assert first.wait(10) == 143


def test_inherited_descriptors_stay_outside() -> None:
    reader, writer = os.pipe()
    try:
        result = subprocess.run([*POLYNIX, "run", "ls", "/proc/self/fd"], capture_output=True, text=True, pass_fds=(reader, writer), timeout=60, check=True)
        assert result.stdout.split() == ["0", "1", "2", "3"]
    finally:
        os.close(reader)
        os.close(writer)


def test_strace_of_signals() -> None:
    result = polynix("run", "--strace=%signal", "sh", "-c", "trap 'echo caught' USR1; kill -USR1 $$")
    assert result.stdout == "caught\n"
    assert "--- SIGUSR1 {si_signo=SIGUSR1, si_code=0, si_pid=1, si_uid=0} ---" in result.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["tree"], ["fds", "--json"], ["top", "--count", "1"]])
def test_output_onto_a_full_disk_is_one_line_and_125(arguments: list[str], background: list[subprocess.Popen[str]]) -> None:
    sleeper = start(background, "run", "sh", "-c", "echo up; sleep 60")
    assert sleeper.stdout is not None and sleeper.stdout.readline() == "up\n"  # so that there is something to write
    with open("/dev/full", "w") as full:
        done = subprocess.run([*POLYNIX, *arguments], stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (125, "polynix: cannot write: No space left on device\n")
