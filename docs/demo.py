"""What no other tool shows, in half a minute: real programs on a kernel that you can script, break and look into. Run by ``make demo``."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
POLYNIX = [sys.executable, "-m", "polynix.tools.start"]


def title(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def run(*arguments: str, show: str = "") -> int:
    print(f"$ {show or 'polynix run ' + ' '.join(arguments)}", flush=True)
    return subprocess.run([*POLYNIX, "run", *arguments], stdin=subprocess.DEVNULL, check=False).returncode


def kernel_of(pid: int) -> int:
    """The kernel process that a ``polynix run`` started: below its runner and that one's launcher."""
    for _ in range(3):
        pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    return pid


def main() -> int:
    title("1. Unmodified programs, many processes, native speed; nothing on the host changes")
    script = "rm -rf /home /var /usr/share; ls -d /var; seq 200000 | sort -R | sort -n | awk '{s+=$1} END {print s}' | rev | rev | tr 0-9 a-j"
    failed = run("--", "bash", "-c", script, show=f"polynix run bash -c '{script}'")
    print(f"(the host still has /var: {os.path.isdir('/var')})")

    title("2. A device driver and a watcher, written in Python, in the kernel of real processes")
    text = (HERE / "dice.py").read_text()
    print(text[text.index("@device") :])
    failed |= run(
        "--feature",
        str(HERE / "dice.py"),
        "--",
        "sh",
        "-c",
        "head -c 16 /dev/dice; echo",
        show="polynix run --feature docs/dice.py sh -c 'head -c 16 /dev/dice; echo'",
    )

    title("3. Break the kernel on purpose: the second write of a cat finds no space")
    rule = "write:error=ENOSPC,process=cat,after=1,times=1"
    loop = "for i in 1 2 3; do echo line $i | cat; done"
    run("--fail", rule, "--", "sh", "-c", loop, show=f"polynix run --fail {rule} sh -c '{loop}'")

    title("4. Look into a running kernel from outside: its tables are shared memory, looking costs it nothing")
    work = "for i in 1 2 3; do (while :; do :; done) & done; find /usr -type f | xargs -n 200 -P 3 md5sum >/dev/null 2>&1"
    process = subprocess.Popen([*POLYNIX, "run", "--feature", "syscall_stats", "--", "bash", "-c", work], stdin=subprocess.DEVNULL)
    time.sleep(3)
    for command in ("ps", "stats"):
        print(f"$ polynix {command}", flush=True)
        shown = subprocess.run([*POLYNIX, command, str(kernel_of(process.pid))], capture_output=True, text=True, check=False)
        print("\n".join(shown.stdout.splitlines()[:9]), shown.stderr, flush=True)
    process.terminate()
    process.wait()
    return failed


if __name__ == "__main__":
    sys.exit(main())
