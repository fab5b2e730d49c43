"""The containers that a runner keeps: start, exec, ps, logs, kill, stop, wait, inspect, suspend, resume, proxy, rm, from the command line and from Python;
what ends with the runner, and who is let in.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pexpect
import pytest
from harness import POLYNIX, environment
from integration.service import Service, alive, descendants, first_line
from waiting import wait_until

import polynix
from polynix import scripting

ROOT = os.geteuid() == 0


def test_from_start_to_removal(service: Service) -> None:
    identity = service.start("life", "sh", "-c", "echo out; echo err >&2; read line < /dev/null; sleep 1000")
    assert [row["name"] for row in service.ps() if row["id"] == identity] == ["life"]
    assert wait_until(lambda: service.run("logs", "life").stdout == "out\n")
    assert service.run("logs", identity[:6]).stderr == "err\n"
    done = service.run("exec", "life", "--", "sh", "-c", "echo inside; ps -e | grep -c sleep; exit 7")
    assert (done.returncode, done.stdout) == (7, "inside\n1\n")
    assert [row["command"] for row in json.loads(service.run("ps", "life", "--json").stdout)].count("sleep") == 1
    (known,) = json.loads(service.run("inspect", "life").stdout)
    assert (known["id"], known["name"], known["state"], known["exit_status"]) == (identity, "life", "running", None)
    assert alive(known["kernel"]["pid"]) and len(known["kernel"]["name"]) == 7 and known["kernel"]["wake_lease"]
    assert service.run("rm", "life").stderr == "polynix: container life is running: stop it, or remove it by force\n"
    assert service.run("stop", "life").stdout == "life\n"
    assert identity not in [row["id"] for row in service.ps()]
    assert [(row["state"], row["exit_status"]) for row in service.ps("-a") if row["id"] == identity] == [("exited", 143)]
    assert "exited (143)" in service.run("ps", "-a").stdout
    assert service.run("wait", "life").stdout == "143\n"
    assert service.run("logs", "life").stdout == "out\n"  # until it is removed
    assert not alive(known["kernel"]["pid"])
    assert service.run("rm", "life").stdout == "life\n"
    assert service.run("inspect", "life").returncode == 125
    assert not Path(known["log"]["path"]).parent.exists()


def test_exit_statuses(service: Service) -> None:
    service.start("three", "sh", "-c", "exit 3")
    service.start("signalled", "sh", "-c", "kill -SEGV $$")
    assert service.run("wait", "three", "signalled").stdout == "3\n139\n"
    service.start("killed", "sleep", "1000")
    assert service.run("kill", "-s", "USR1", "killed").returncode == 0
    assert service.run("wait", "killed").stdout == "138\n"
    service.start("stubborn", "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done")
    assert wait_until(lambda: service.run("logs", "stubborn").stdout)
    assert service.run("stop", "-t", "0.3", "stubborn").returncode == 0
    assert service.run("wait", "stubborn").stdout == "137\n"
    service.run("rm", "three", "signalled", "killed", "stubborn")


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (("exec", "nobody", "true"), 125, "no such container: nobody"),
        (("kill", "nobody"), 125, "no such container: nobody"),
        (("logs", "nobody"), 125, "no such container: nobody"),
        (("wait", "nobody"), 125, "no such container: nobody"),
        (("suspend", "nobody"), 125, "no such container: nobody"),
        (("ps", "nobody"), 125, "no such container: nobody"),
        (("kill", "-s", "NOSUCH", "nobody"), 125, "'NOSUCH' is no signal"),
        (("start", "no/name", "true"), 125, "'no/name' is no name"),
        (("start", "missing", "/no/such/program"), 127, "/no/such/program: No such file or directory"),
        (("start", "forbidden", "/etc/passwd"), 126, "/etc/passwd: Permission denied"),
        (("start", "--feature", "nonsense", "bad", "true"), 125, "unknown feature or bad arguments: 'nonsense'"),
        (("start", "-w", "/no/such/directory", "nowhere", "true"), 125, "/no/such/directory: No such file or directory"),
        (("exec", "-t", "nobody", "true"), 125, "standard input is no terminal"),
        (("proxy", "nobody", "udp://x", "--to", "port:1"), 125, "'udp://x' is not tcp://ADDRESS:PORT"),
        (("proxy", "nobody", "tcp://127.0.0.1:0"), 125, "either --to says"),
        (("proxy", "nobody", "--remove"), 125, "which address?"),
        (("ps", "--runner", "/no/such/runner"), 125, "no runner in /no/such/runner"),
        (("runner",), 125, "already"),
    ],
)
def test_mistakes_are_one_line(service: Service, arguments: tuple[str, ...], status: int, text: str) -> None:
    before = service.ps("-a")
    done = service.run(*arguments)
    assert done.returncode == status and done.stdout == "", done
    assert done.stderr.startswith("polynix: ") and done.stderr.count("\n") == 1 and text in done.stderr
    assert service.ps("-a") == before


def test_a_container_is_one_line_of_the_list(service: Service) -> None:
    service.start("script", "sh", "-c", "true\n\nsleep 1000 # last")
    (line,) = [line for line in service.run("ps").stdout.splitlines() if " script " in line]
    assert "sh -c true sleep 1000" in line
    assert [row["command"] for row in service.ps() if row["name"] == "script"] == ["sh -c true\n\nsleep 1000 # last"]
    service.run("rm", "-f", "script")


def test_names_are_unique(service: Service) -> None:
    service.start("one", "sleep", "1000")
    assert service.run("start", "one", "true").stderr == "polynix: the name 'one' is in use\n"
    service.run("rm", "-f", "one")
    service.start("one", "sleep", "1000")
    service.run("rm", "-f", "one")


def test_exec_is_as_the_container_was_started(service: Service) -> None:
    service.start("usual", "sleep", "1000", options=("-e", "COLOUR=green", "-w", "/usr", "-u", "1234:1235"))
    script = "echo $COLOUR $OWN; pwd; id -u; id -g"
    environment = {**service.environment, "COLOUR": "red", "OWN": "mine"}
    assert service.run("exec", "usual", "sh", "-c", script, env=environment).stdout == "green\n/usr\n1234\n1235\n"
    options = ("-e", "COLOUR=blue", "-e", "OWN", "-w", "/tmp", "-u", "0")
    assert service.run("exec", *options, "usual", "sh", "-c", script, env=environment).stdout == "blue mine\n/tmp\n0\n0\n"
    with service.client() as runner:
        known = runner.inspect("usual")["program"]
        assert (known["directory"], known["user"]) == ("/usr", [1234, 1235]) and "COLOUR=green" in known["env"]
        with runner.attach("usual", user=(0, 0)) as container:
            done = container.run(["sh", "-c", script], capture_output=True, text=True)
            assert done.stdout == "green\n/usr\n0\n0\n"
    service.run("rm", "-f", "usual")


def test_exec_may_leave_a_program_alone(service: Service) -> None:
    service.start("busy", "sleep", "1000")
    done = service.run("exec", "-d", "busy", "sh", "-c", "sleep 0.2; cat; echo unseen; echo done > /tmp/done; sleep 1000")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert wait_until(lambda: service.run("exec", "busy", "cat", "/tmp/done").stdout == "done\n")
    assert service.run("exec", "-d", "busy", "/no/such").returncode == 127
    service.run("rm", "-f", "busy")


def test_one_that_is_missing_keeps_no_other_from_its_turn(service: Service) -> None:
    for name in ("several-1", "several-2"):
        service.start(name, "sleep", "1000")
    names = ("several-1", "several-none", "several-2")
    missing = "polynix: no such container: several-none\n"
    done = service.run("inspect", *names)
    assert [known["name"] for known in json.loads(done.stdout)] == ["several-1", "several-2"]
    assert (done.returncode, done.stderr) == (125, missing)
    for command, text in ((("kill", "-s", "TERM"), "several-1\nseveral-2\n"), (("wait",), "143\n143\n"), (("rm",), "several-1\nseveral-2\n")):
        done = service.run(*command, *names)
        assert (done.returncode, done.stdout, done.stderr) == (125, text, missing), command
    service.start("several-3", "sleep", "1000")
    done = service.run("rm", "-f", "several-none", "several-3")
    assert (done.returncode, done.stdout, done.stderr) == (0, "several-3\n", missing)


def test_exec_has_the_caller_streams_or_a_terminal(service: Service) -> None:
    service.start("streams", "sleep", "1000")
    assert service.run("exec", "streams", "cat", stdin=subprocess.DEVNULL).stdout == ""
    assert service.run("exec", "-i", "-e", "V=1", "streams", "sh", "-c", "cat; echo $V", input="typed", stdin=None).stdout == "typed1\n"
    child = service.terminal("exec", "-it", "streams", "sh", "-c", "tty; stty size; read line; echo got $line; exit 5")
    child.expect_exact("/dev/pts/0")
    child.expect_exact("30 90")
    child.sendline("something")
    child.expect_exact("got something")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 5
    child = service.terminal("exec", "-it", "streams", "sh", "-c", "echo ready; exec sleep 1000")
    child.expect_exact("ready")
    child.sendcontrol("c")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    service.run("rm", "-f", "streams")


def test_logs_are_followed_to_the_end(service: Service) -> None:
    service.start("talk", "sh", "-c", "for n in 1 2 3; do echo $n; sleep 0.2; done")
    assert service.run("logs", "-f", "talk").stdout == "1\n2\n3\n"
    assert service.run("logs", "--tail", "2", "talk").stdout == "2\n3\n"
    stamped = service.run("logs", "-t", "talk").stdout.splitlines()
    assert len(stamped) == 3 and all(line[10] == "T" and line.endswith(f"Z {number}") for number, line in enumerate(stamped, 1))
    service.start("much", "sh", "-c", "yes 0123456789abcdef | head -c 3000000; echo; echo end")
    text = service.run("logs", "-f", "much").stdout
    assert len(text) == 3000005 and text.endswith("end\n")
    service.run("rm", "talk", "much")


def test_the_last_lines_are_followed(service: Service) -> None:
    """A line written in pieces is one, whatever the other stream says meanwhile; what comes later follows."""
    service.start("last", "sh", "-c", "echo one; echo two; printf thr; echo error >&2; sleep 0.1; echo ee; sleep 1000")
    assert wait_until(lambda: service.run("logs", "last").stdout.endswith("three\n"))
    assert service.run("logs", "--tail", "2", "last").stdout == "three\n"
    assert service.run("logs", "--tail", "3", "last").stdout == "two\nthree\n"
    assert service.run("logs", "--tail", "0", "last").stdout == ""
    with subprocess.Popen([*POLYNIX, "logs", "-f", "-n", "2", "last"], env=service.environment, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None and follower.stdout.readline() == "three\n"
        assert service.run("exec", "last", "sh", "-c", "echo later > /proc/1/fd/1").returncode == 0
        assert follower.stdout.readline() == "later\n"
        service.run("kill", "last")
        assert follower.stdout.read() == "" and follower.wait(20) == 0
    service.run("rm", "last")


def test_rules_are_in_force_from_the_first_call(service: Service) -> None:
    rules = ("--fail", "mkdir*:error=ENOSPC,path=/tmp/full", "--kill", "rmdir:signal=USR1", "--shorten", "read:count=2,path=/tmp/short")
    script = "mkdir /tmp/full; echo abcdef > /tmp/short; dd if=/tmp/short bs=6 count=1 status=none; rmdir /tmp/none; exit 4"
    service.start("ruled", "sh", "-c", script, options=rules)
    assert service.run("wait", "ruled").stdout == "4\n"
    done = service.run("logs", "ruled")
    assert done.stdout == "ab" and "No space left on device" in done.stderr and "User defined signal 1" in done.stderr
    service.run("rm", "ruled")
    with service.client() as runner:

        def forty_two(call: scripting.SystemCall) -> int:
            return 42

        runner.start(["python3", "-c", "import os; print(os.getppid())"], name="scripted", hooks=[scripting.call("getppid", forty_two)])
        assert first_line(runner, "scripted") == b"42\n"
        runner.remove("scripted", force=True)


def test_a_rule_that_the_kernel_refuses_starts_nothing(service: Service) -> None:
    container = polynix.Container(init=False)
    container.script_later("hook_state", hook=77)
    with service.client() as runner:
        with pytest.raises(polynix.ContainerError, match="77"):
            runner.start_container(container, ["echo", "never"], name="refused")
        assert not [status for status in runner.list(all=True) if status.name == "refused"]


def test_python(service: Service) -> None:
    with service.client() as runner:
        identity = runner.start([sys.executable, "-c", "import time; print('hello', flush=True); time.sleep(1000)"], name="python", cwd="/tmp")
        assert [status.name for status in runner.list() if status.id == identity] == ["python"]
        assert first_line(runner, "python") == b"hello\n"
        with runner.attach("python") as container:
            assert container.run(["pwd"], capture_output=True, text=True, cwd="/usr").stdout == "/usr\n"
            with container.spawn(["cat"], stdin=polynix.PIPE, stdout=polynix.PIPE) as process:
                assert process.communicate(b"through") == (b"through", None)
            assert container.kernel_pid == runner.inspect("python")["kernel"]["pid"]
        assert runner.inspect("python")["state"] == "running"  # leaving it is not its end
        runner.kill("python", signal.SIGINT)
        assert runner.wait("python") in (1, 130)
        runner.remove("python")
        with pytest.raises(polynix.ContainerError, match="no such container: python"):
            runner.inspect("python")
        with pytest.raises(FileNotFoundError):
            runner.start(["/no/such/program"])
    with pytest.raises(polynix.ContainerError, match="no runner in"):
        polynix.Runner(service.parent / "elsewhere")


def test_a_suspended_container_makes_no_progress(service: Service) -> None:
    service.start("ticker", "sh", "-c", "n=0; while :; do n=$((n+1)); echo $n; sleep 0.02; done")
    assert wait_until(lambda: service.run("logs", "ticker").stdout)
    assert service.run("suspend", "ticker").returncode == 0
    assert [row["state"] for row in service.ps() if row["name"] == "ticker"] == ["suspended"]
    refused = service.run("exec", "ticker", "--", "true")
    assert (refused.returncode, refused.stderr) == (125, "polynix: the container is suspended: resume it first\n")
    seen = service.run("logs", "ticker").stdout
    time.sleep(0.5)
    assert service.run("logs", "ticker").stdout == seen
    (known,) = json.loads(service.run("inspect", "ticker").stdout)
    assert known["suspend"]["suspend_attempts"] == 1 and not known["kernel"]["wake_lease"]
    assert service.run("resume", "ticker").returncode == 0
    assert wait_until(lambda: service.run("logs", "ticker").stdout != seen)
    assert [row["state"] for row in service.ps() if row["name"] == "ticker"] == ["running"]
    service.run("suspend", "ticker")
    assert service.run("stop", "ticker").returncode == 0  # asleep, too
    service.run("rm", "ticker")


SERVER = """
import socket
server = socket.socket(socket.AF_UNIX)
server.bind("/tmp/echo")
server.listen()
print("ready", flush=True)
while True:
    connection, _ = server.accept()
    while data := connection.recv(65536):
        connection.sendall(data.upper())
    connection.close()
"""


def test_a_proxied_connection_wakes_a_sleeper(service: Service) -> None:
    service.start("echo", sys.executable, "-c", SERVER)
    assert wait_until(lambda: service.run("logs", "echo").stdout == "ready\n")
    address = service.run("proxy", "echo", "tcp://127.0.0.1:0", "--to", "unix:/tmp/echo").stdout.strip()
    port = int(address.rpartition(":")[2])
    for asleep in (False, True):
        if asleep:
            assert service.run("suspend", "echo").returncode == 0
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(b"hello")
            assert connection.recv(100) == b"HELLO"
    assert [row["state"] for row in service.ps() if row["name"] == "echo"] == ["running"]
    assert service.run("proxy", "echo").stdout == f"{address} unix:/tmp/echo\n"
    second = service.run("proxy", "echo", "tcp://127.0.0.1:0", "--to", "port:7").stdout.strip()
    (known,) = json.loads(service.run("inspect", "echo").stdout)
    assert known["proxies"] == [[address, "unix:/tmp/echo"], [second, "port:7"]]
    assert service.run("proxy", "echo", second, "--remove").stdout == f"{second}\n"
    assert service.run("proxy", "echo").stdout == f"{address} unix:/tmp/echo\n"
    service.run("rm", "-f", "echo")
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=5).close()


def test_a_dead_kernel_is_told_of(service: Service) -> None:
    service.start("victim", "sleep", "1000")
    service.start("bystander", "sleep", "1000")
    (known,) = json.loads(service.run("inspect", "victim").stdout)
    with subprocess.Popen([*POLYNIX, "exec", "victim", "sleep", "1000"], env=service.environment, stderr=subprocess.PIPE, text=True) as execution:
        time.sleep(1)
        os.kill(known["kernel"]["pid"], signal.SIGKILL)
        assert execution.wait(20) == 137 or execution.returncode == 125
    assert service.run("wait", "victim").stdout == "137\n"
    (known,) = json.loads(service.run("inspect", "victim").stdout)
    assert known["message"] == "the kernel process died (signal 9)"
    assert service.run("exec", "victim", "true").stderr == "polynix: container victim is not running\n"
    assert service.run("exec", "bystander", "echo", "fine").stdout == "fine\n"
    service.run("rm", "-f", "victim", "bystander")


def test_many_at_once(service: Service) -> None:
    with service.client() as runner:
        for number in range(50):
            runner.start(["sh", "-c", f"echo {number}; exec sleep 1000"], name=f"many-{number}")
        running = [status for status in runner.list() if (status.name or "").startswith("many-")]
        assert len(running) == 50 and len({status.kernel_pid for status in running}) == 50
        for number in (0, 25, 49):
            assert first_line(runner, f"many-{number}") == b"%d\n" % number
        for number in range(50):
            runner.remove(f"many-{number}", force=True)
        assert not [status for status in runner.list(all=True) if (status.name or "").startswith("many-")]


FULL_SHARED_MEMORY = """
mount -t tmpfs -o size=257M none /dev/shm
"$@" runner & runner=$!
until "$@" start before -- sleep 1000 2>/dev/null; do sleep 0.1; done
fallocate -l 257M /dev/shm/fill || cat /dev/zero > /dev/shm/fill 2>/dev/null
df --output=avail /dev/shm | tail -n 1
"$@" start after -- sh -c 'head -c 20000000 /dev/zero > /tmp/file; sort /tmp/file | wc -c'
"$@" wait after; "$@" logs after
"$@" exec before -- python3 -c 'print(len(bytearray(b"x" * 30000000)))'
kill $runner; wait $runner; echo "runner $?"; ls /dev/shm
"""


@pytest.mark.skipif(not ROOT, reason="needs root to arrange")
def test_a_full_shared_memory_file_system(tmp_path: Path) -> None:
    """It fills up while a container runs: that one goes on, and others start, in memory of another kind."""
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", FULL_SHARED_MEMORY, "bash", *POLYNIX], env=environment("/", XDG_RUNTIME_DIR=str(tmp_path)),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert [lines[1], *lines[3:]] == ["0", "0", "20000001", "30000000", "runner 0", "fill"], done
    assert "Traceback" not in done.stderr, done


# -- the runner's own end --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", ["runner", "launcher", "all"])
def test_containers_end_with_a_killed_runner(tmp_path: Path, victim: str) -> None:
    service = Service(tmp_path)
    try:
        service.start("one", "sleep", "1000")
        service.start("two", "sh", "-c", "sleep 1000 & wait")
        below = descendants(service.process.pid)
        (launcher,) = (int(pid) for pid in Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children").read_text().split())
        if victim == "all":
            os.kill(launcher, signal.SIGSTOP)
        for pid in {"runner": (service.process.pid,), "launcher": (launcher,), "all": (service.process.pid, launcher)}[victim]:
            os.kill(pid, signal.SIGKILL)
        service.process.wait(20)
        assert wait_until(lambda: not any(alive(pid) for pid in below), 5)
        if victim != "all":
            assert wait_until(lambda: not service.directory.exists(), 5)
        second = Service(tmp_path)  # sweeps what was left
        try:
            assert second.ps("-a") == []
            second.start("one", "true")
        finally:
            second.close()
    finally:
        service.close()


@pytest.mark.skipif(not ROOT, reason="needs root to be another user")
def test_another_user_is_refused(service: Service) -> None:
    done = service.run("ps", "--runner", str(service.directory), user=65534, group=65534, extra_groups=())
    assert done.returncode == 125 and done.stderr.count("\n") == 1, done


@pytest.mark.skipif(not ROOT, reason="needs root to be another user")
def test_runners_of_two_users(service: Service) -> None:
    """The same name in both is two containers, and the end of one runner is nothing to the other."""
    directory = Path(tempfile.mkdtemp(prefix="polynix-other-"))
    os.chown(directory, 65534, 65534)
    other = Service(directory, user=65534)
    try:
        identities = {runner.start("shared", "sleep", "1000") for runner in (service, other)}
        assert len(identities) == 2
        for runner, owner in ((service, os.geteuid()), (other, 65534)):
            (row,) = [row for row in runner.ps() if row["name"] == "shared"]
            assert os.stat(f"/proc/{row['kernel']}").st_uid == owner
        assert not identities <= {row["id"] for row in other.ps("-a")}
        assert other.run("ps", "--runner", str(service.directory)).returncode == 125
        below = descendants(other.process.pid)
        os.kill(other.process.pid, signal.SIGKILL)
        assert wait_until(lambda: not any(alive(pid) for pid in below), 5)
        assert service.run("exec", "shared", "echo", "fine").stdout == "fine\n"
    finally:
        other.close()
        service.run("rm", "-f", "shared")
        shutil.rmtree(directory)


def test_a_directory_of_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    done = subprocess.run([*POLYNIX, "runner", "--directory", str(tmp_path / "open")], capture_output=True, text=True, timeout=30)
    assert done.returncode == 125 and done.stderr.count("\n") == 1 and "0700" in done.stderr
