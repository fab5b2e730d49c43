"""The Python API: ``polynix.run`` and ``polynix.Container``, in the forms of subprocess."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import polynix


def test_run_captures_output() -> None:
    result = polynix.run(["sh", "-c", "echo out; echo err >&2; exit 3"], capture_output=True, text=True)
    assert isinstance(result, subprocess.CompletedProcess)
    assert (result.stdout, result.stderr, result.returncode) == ("out\n", "err\n", 3)


def test_run_feeds_input_and_decodes() -> None:
    assert polynix.run(["cat"], input="grün\n", capture_output=True, text=True).stdout == "grün\n"
    assert polynix.run(["cat"], input=b"\xff\0", capture_output=True).stdout == b"\xff\0"
    text = "x" * 300_000
    assert polynix.run(["cat"], input=text, capture_output=True, text=True).stdout == text


def test_run_checks() -> None:
    with pytest.raises(subprocess.CalledProcessError) as failure:
        polynix.run(["sh", "-c", "echo before; exit 9"], check=True, stdout=polynix.PIPE)
    assert failure.value.returncode == 9 and failure.value.output == b"before\n"


def test_run_times_out_and_leaves_nothing() -> None:
    begin = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        polynix.run(["sleep", "100"], timeout=0.5)
    assert time.monotonic() - begin < 10


def test_run_with_environment_directory_and_container_options(tmp_path: Path) -> None:
    result = polynix.run(["sh", "-c", "echo $A; pwd; id -u; uname -n"], env={"A": "b", "PATH": "/usr/bin:/bin"}, cwd="/usr", user="5", hostname="h", capture_output=True, text=True)  # fmt: skip  # noqa: E501
    assert result.stdout == "b\n/usr\n5\nh\n"
    polynix.run(["sh", "-c", "echo made > /out/file"], binds=[f"{tmp_path}:/out"], check=True)
    assert (tmp_path / "file").read_text() == "made\n"


def test_run_redirects(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with open(target, "wb") as file:
        polynix.run(["sh", "-c", "echo a; echo b >&2"], stdout=file, stderr=polynix.STDOUT, check=True)
    assert target.read_text() == "a\nb\n"
    assert polynix.run(["sh", "-c", "echo a >&2"], stdout=polynix.PIPE, stderr=polynix.STDOUT).stdout == b"a\n"
    assert polynix.run(["cat"], stdin=polynix.DEVNULL, capture_output=True).stdout == b""


def test_failed_starts_are_os_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as failure:
        polynix.run(["no-such-program"])
    assert failure.value.filename == "no-such-program"
    plain = tmp_path / "plain"
    plain.write_text("x")
    plain.chmod(0o644)
    with pytest.raises(PermissionError):
        polynix.run([plain])
    with pytest.raises(FileNotFoundError) as failure:
        polynix.run(["true"], cwd="/no/such/directory")
    assert failure.value.filename == "/no/such/directory"
    with pytest.raises(ValueError):
        polynix.run([])
    with pytest.raises(ValueError):
        polynix.run(["true"], rootfs="/no/such/root")
    with pytest.raises(polynix.ContainerError):
        polynix.run(["true"], features=["no-such-feature"])


def test_programs_of_a_container_share_its_kernel() -> None:
    with polynix.Container() as container:
        container.run(["sh", "-c", "echo shared > /tmp/polynix-shared"], check=True)
        assert container.run(["cat", "/tmp/polynix-shared"], capture_output=True).stdout == b"shared\n"
        sleeper = container.spawn(["sleep", "100"])
        listing = container.run(["ps", "-eo", "pid,comm"], capture_output=True, text=True).stdout.split()
        assert listing[listing.index("init") - 1] == "1"
        assert listing[listing.index("sleep") - 1] == str(sleeper.pid)
        container.run(["kill", str(sleeper.pid)], check=True)
        assert sleeper.wait(10) == -signal.SIGTERM
    assert not os.path.exists("/tmp/polynix-shared")


def test_init_reaps_orphans_and_cannot_be_killed() -> None:
    with polynix.Container() as container:
        container.run(["sh", "-c", "(sleep 0.2 &) ; kill -9 1; kill -TERM 1"])
        time.sleep(0.5)
        states = container.run(["ps", "-eo", "stat,comm"], capture_output=True, text=True).stdout
        assert "Z" not in states and "sleep" not in states and "init" in states


def test_spawn_is_popen_like() -> None:
    with polynix.Container() as container:
        process = container.spawn(["cat"], stdin=polynix.PIPE, stdout=polynix.PIPE)
        assert process.pid > 2 and process.poll() is None
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"line\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"line\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.1)
        process.stdin.close()
        assert process.wait(10) == 0 and process.poll() == 0 and process.returncode == 0
        process.stdout.close()

        with container.spawn(["sh", "-c", "echo started; exec sleep 100"], stdout=polynix.PIPE, text=True) as process:
            assert process.stdout is not None and process.stdout.readline() == "started\n"
            process.send_signal(signal.SIGSTOP)
            process.send_signal(signal.SIGCONT)
            process.terminate()
        assert process.returncode == -signal.SIGTERM
        process = container.spawn(["sleep", "100"])
        process.kill()
        assert process.wait(10) == -signal.SIGKILL
        process.kill()  # no error when it has ended


def test_communicate_goes_on_after_a_timeout() -> None:
    with polynix.Container() as container:
        process = container.spawn(["sh", "-c", "echo early; cat; sleep 0.6; echo late"], stdin=polynix.PIPE, stdout=polynix.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate("input\n", timeout=0.2)
        assert process.communicate() == ("early\ninput\nlate\n", None)


def test_leaving_the_container_kills_its_programs() -> None:
    with polynix.Container() as container:
        process = container.spawn(["sleep", "100"])
    assert process.returncode == -signal.SIGKILL
    assert process.poll() == -signal.SIGKILL


def test_threads_of_the_caller_may_use_one_container() -> None:
    outputs: dict[int, str] = {}
    with polynix.Container() as container:

        def work(number: int) -> None:
            outputs[number] = container.run(["sh", "-c", f"sleep 0.1; echo {number}"], capture_output=True, text=True).stdout

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert outputs == {number: f"{number}\n" for number in range(4)}


def test_two_containers_at_once() -> None:
    with polynix.Container(hostname="one") as one, polynix.Container(hostname="two") as two:
        first, second = (container.run(["uname", "-n"], capture_output=True, text=True).stdout for container in (one, two))
    assert (first, second) == ("one\n", "two\n")


def test_importing_is_light() -> None:
    script = (
        "import polynix, sys; polynix.Container; heavy = {'numpy', 'zmq', 'multiprocess', 'click'} & set(sys.modules); sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    script = "import polynix.tools.cli, sys; heavy = {'numpy', 'zmq', 'multiprocess'} & set(sys.modules); sys.exit(str(heavy) if heavy else 0)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_the_death_of_the_calling_program_ends_the_container(tmp_path: Path) -> None:
    script = (
        "import os, polynix, signal\n"
        "container = polynix.Container().start()\n"
        "process = container.spawn(['sleep', '1000'])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script], env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}, timeout=60, check=False)
    deadline = time.monotonic() + 2
    while os.listdir(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert os.listdir(tmp_path) == []
