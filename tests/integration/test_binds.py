"""``--bind`` and the overlay, as programs see them: what reaches the host, and what must not."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import directory, run_polynix

WORK = """
set -e
cd /mnt/shared
cat given > copy
mkdir -p d/e; echo deep > d/e/f; mv d moved; ln moved/e/f hard; ln -s given soft
echo more >> given
mkfifo pipe; (echo through > pipe &); cat pipe
chown 1234:5678 copy; chmod 4755 copy; stat -c '%a %u %g' copy
dd if=/dev/zero of=big bs=1M count=3 2>/dev/null; truncate -s 1M big
ls
echo denied > /mnt/fixed/x || echo refused
cat /mnt/file; echo appended >> /mnt/file
touch /mnt/outside
"""


@pytest.mark.timeout(120)
def test_binds() -> None:
    with directory("binds") as host:
        shared, single = host / "shared", host / "single"
        shared.mkdir()
        (shared / "given").write_text("given\n")
        single.write_text("one file\n")
        flags = ["--bind", f"{shared}:/mnt/shared", "--bind", f"{shared}:/mnt/fixed:ro", "--bind", f"{single}:/mnt/file"]
        outcome = run_polynix(["/bin/sh", "-c", WORK], flags=flags, cwd=host)
        assert outcome.out.decode().splitlines() == [
            "through", "4755 1234 5678", "big", "copy", "given", "hard", "moved", "pipe", "soft", "refused", "one file",
        ], outcome  # fmt: skip
        assert outcome.code == 0
        assert sorted(os.listdir(shared)) == ["big", "copy", "given", "hard", "moved", "soft"]
        copy = os.stat(shared / "copy")
        assert (stat.S_IMODE(copy.st_mode), copy.st_uid, copy.st_gid) == (0o755, os.getuid(), os.getgid())
        assert (shared / "given").read_text() == "given\nmore\n"
        assert (shared / "hard").read_text() == "deep\n"
        assert os.stat(shared / "hard").st_nlink == 2
        assert os.stat(shared / "big").st_size == 1 << 20
        assert single.read_text() == "one file\nappended\n"
        assert not os.path.lexists("/mnt/outside")


@pytest.mark.timeout(120)
def test_the_root_is_left_alone() -> None:
    with directory("root") as host:
        (host / "kept").write_text("kept\n")
        before = os.stat(host / "kept")
        script = f"cd {host}; echo changed > kept; rm -f kept; echo new > new; chmod 700 .; mv . ../elsewhere 2>/dev/null; cat new; ls"
        outcome = run_polynix(["/bin/sh", "-c", script], cwd=host)
        assert outcome.out.decode() == "new\nnew\n"
        after = os.stat(host / "kept")
        assert os.listdir(host) == ["kept"]
        assert (host / "kept").read_text() == "kept\n"
        assert (after.st_mtime_ns, after.st_ino, after.st_mode) == (before.st_mtime_ns, before.st_ino, before.st_mode)


@pytest.mark.timeout(120)
def test_another_root() -> None:
    with directory("rootfs") as root:
        for path in ("bin", "etc"):
            (root / path).mkdir()
        (root / "etc" / "name").write_text("inside\n")
        (root / "etc" / "out").symlink_to("../../../../../../../../etc/hostname")
        source = Path("/bin/busybox") if Path("/bin/busybox").exists() else Path("/usr/bin/busybox")
        if not source.exists():
            pytest.skip("needs a static busybox")
        (root / "bin" / "busybox").write_bytes(source.read_bytes())
        (root / "bin" / "busybox").chmod(0o755)
        script = "cat /etc/name; cat /etc/out; cd /..; pwd; ls /; ls -d /dev/null /proc/self"
        outcome = run_polynix(["/bin/busybox", "sh", "-c", script.replace("cat", "/bin/busybox cat").replace("ls", "/bin/busybox ls")],
                              flags=["--rootfs", str(root), "--workdir", "/"], cwd=root)  # fmt: skip
        lines = outcome.out.decode().splitlines()
        assert lines == ["inside", "/", "bin", "dev", "etc", "proc", "sys", "/dev/null", "/proc/self"], outcome
        assert b"/etc/out" in outcome.err
        assert sorted(os.listdir(root)) == ["bin", "etc"]
