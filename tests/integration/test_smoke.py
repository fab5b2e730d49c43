"""The smoke part, on hosts that give less: as an unprivileged user, with regions that are memfds, with a /dev/shm that is of no use."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from harness import AS_NOBODY, POLYNIX, Outcome, execute, need_others_to_read, run_cases
from integration.audit import Audit, build
from userspace.programs import HERE, cases_of, command, directives, native_results

PROGRAMS = ("exec.c", "fork_wait.c", "futex.c", "memfd.c", "mmap.c", "pipes.c", "signals_handlers.c", "sockets.c", "threads.c", "vfork.c")
ROOT = os.geteuid() == 0
USELESS_SHM = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o noexec none /dev/shm && exec "$@"', "sh", *AS_NOBODY]
NO_SHM = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o ro none /dev/shm && exec "$@"', "sh", *AS_NOBODY]

HOSTS: dict[str, tuple[list[str], dict[str, str]]] = {
    "unprivileged": (AS_NOBODY, {}),
    "memfds": ([], {"POLYNIX_FORCE_MEMFD": "1"}),
    "unprivileged memfds": (AS_NOBODY, {"POLYNIX_FORCE_MEMFD": "1"}),
    "noexec shm": (USELESS_SHM, {}),
    "read-only shm": (NO_SHM, {}),
}
NEEDS_ROOT = {"noexec shm", "read-only shm"}

SNIPPETS = {
    "ls / | head -3 | wc -l": b"3\n",
    "i=0; while [ $i -lt 10 ]; do echo $i | cat; i=$((i + 1)); done | tail -1; (exit 3); echo $?": b"9\n3\n",
    "echo data > /tmp/smoke; cat /tmp/smoke; rm /tmp/smoke; [ -e /tmp/smoke ] || echo gone": b"data\ngone\n",
    "cat <(echo one) <(echo two)": b"one\ntwo\n",
    "trap 'echo caught' USR1; kill -USR1 $$; sleep 0.05 & wait $!; echo $?": b"caught\n0\n",
    "ulimit -c; id -u; umask": b"0\n0\n0022\n",
    "python3 -c 'import threading as t, queue\nq = queue.Queue()\nfor n in range(9): t.Thread(target=q.put, args=(n,)).start()\n"
    "print(sum(q.get() for _ in range(9)))'": b"36\n",
    "python3 -c 'import multiprocessing as m\nwith m.Pool(3) as p: print(p.map(abs, [-1, -2, -3]))'": b"[1, 2, 3]\n",
}

Runner = Callable[..., Outcome]


@pytest.fixture(params=HOSTS)
def run(audit: Audit, request: pytest.FixtureRequest) -> Runner:
    if request.param in NEEDS_ROOT and not ROOT:
        pytest.skip("needs root to arrange")
    wrapper, environment = HOSTS[request.param]
    if request.param != "memfds":
        need_others_to_read()
    audit.directory.chmod(0o755)
    audit.run_directory.chmod(0o777)

    def run(argv: list[str], *flags: str) -> Outcome:
        variables = audit.environment(PYTHONDONTWRITEBYTECODE="1", **environment)
        return execute([*wrapper, *POLYNIX, "run", *flags, "--", *argv], cwd="/tmp", env=variables, timeout=100)

    return run


@pytest.mark.timeout(200)
def test_shell_and_python(run: Runner) -> None:
    for script, output in SNIPPETS.items():
        outcome = run(["bash", "-c", script])
        assert (outcome.code, outcome.out, outcome.err) == (0, output, b""), (script, outcome)


@pytest.mark.timeout(400)
def test_userspace_programs(run: Runner) -> None:
    failed = {}
    for name in PROGRAMS:
        source = HERE / name
        native = native_results(source)
        argv, flags = command(source), directives(source).get("run", [])
        here = run_cases(lambda names, argv=argv, flags=flags: run([*argv, *names], *flags), cases_of(source))
        for case, result in here.items():
            if native[case].verdict == "OK" and (result.verdict, result.text) != ("OK", native[case].text):
                failed[f"{name}::{case}"] = (result.verdict, result.text[-300:])
    assert failed == {}


@pytest.mark.timeout(100)
def test_kills(audit: Audit, run: Runner) -> None:
    audit.log.chmod(0o666)
    outcome = run([build("storm"), "100", "1"], *audit.kill_feature(seed=1, rate=0.005))
    assert outcome.code == 0 and b"storm survived" in outcome.out and b"inside the kernel" not in outcome.err, outcome
    assert len(audit.kills()) > 10
