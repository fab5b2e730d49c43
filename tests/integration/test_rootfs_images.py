"""``--rootfs IMAGE``: containers whose root is the image of a file system, paged in on demand."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import POLYNIX, directory, execute, run_native, run_polynix
from integration.audit import build

CHUNK = 128 << 10
MAKERS: dict[str, list[str]] = {
    "ext4": ["mke2fs", "-q", "-t", "ext4", "-d", "TREE", "IMAGE", "48M"],
    "ext2": ["mke2fs", "-q", "-t", "ext2", "-b", "1024", "-d", "TREE", "IMAGE", "48M"],
    "gzip": ["mksquashfs", "TREE", "IMAGE", "-quiet", "-no-progress", "-comp", "gzip"],
    "zstd": ["mksquashfs", "TREE", "IMAGE", "-quiet", "-no-progress", "-comp", "zstd", "-b", "1M"],
}
PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"


def content() -> bytes:
    """24 chunks and a bit: some random, some text, some holes."""
    source = random.Random(4711)
    parts = [source.randbytes(CHUNK) if i % 3 else b"" if i % 2 else b"some text %d\n" % i * (CHUNK // 14) for i in range(24)]
    return b"".join(part.ljust(CHUNK, b"\0") for part in parts) + b"the end" * 100


@pytest.fixture(scope="module")
def tree() -> Iterator[Path]:
    with directory("image") as root:
        tree = root / "tree"
        for name in ("bin", "data", "etc", "tmp", "dev", "proc"):
            (tree / name).mkdir(parents=True)
        shutil.copy("/usr/bin/busybox", tree / "bin/busybox")
        (tree / "bin/sh").symlink_to("busybox")
        shutil.copy(build("paged", "-static"), tree / "bin/paged")
        (tree / "data/big").write_bytes(content())
        (tree / "etc/motd").write_text("from the image\n")
        yield tree


@pytest.fixture(scope="module")
def image_of(tree: Path) -> Callable[[str], Path]:
    def make(kind: str) -> Path:
        image = tree.parent / kind
        if not image.exists():
            command = [str(tree) if word == "TREE" else str(image) if word == "IMAGE" else word for word in MAKERS[kind]]
            subprocess.run(command, check=True, env={"PATH": PATH}, stdout=subprocess.DEVNULL)
        return image

    return make


@pytest.mark.parametrize("kind", MAKERS)
def test_maps_and_reads_are_as_on_linux(kind: str, image_of: Callable[[str], Path], tree: Path) -> None:
    native = run_native([str(tree / "bin/paged"), str(tree / "data/big")], cwd=tree)
    assert native.code == 0, native
    outcome = run_polynix(["/bin/paged", "/data/big"], flags=["--rootfs", str(image_of(kind))], cwd="/")
    assert outcome.out.decode().splitlines() == native.out.decode().splitlines()
    assert (outcome.code, outcome.err) == (0, b"")


@pytest.mark.parametrize("kind", ["ext4", "gzip"])
def test_a_shell_in_an_image(kind: str, image_of: Callable[[str], Path]) -> None:
    image = image_of(kind)
    before = image.read_bytes()
    script = """
        cat /etc/motd; echo changed >> /etc/motd; cat /etc/motd; rm -r /data; ls /
        mkdir /new; cp /bin/busybox /new; /new/busybox cmp /new/busybox /bin/busybox && echo same
        stat -c '%F' /bin/busybox | grep -q 'regular file' && readlink /bin/sh
        /bin/busybox sh -c 'echo $((6 * 7))' | tee /tmp/x | sed s/4/four/; ls /tmp"""
    outcome = run_polynix(["/bin/sh", "-c", script], flags=["--rootfs", str(image)], cwd="/")
    names = [name for name in outcome.out.decode().split() if name not in ("lost+found", "sys")]
    assert names == [
        "from", "the", "image", "from", "the", "image", "changed", "bin", "dev", "etc", "proc", "tmp", "same", "busybox", "four2", "x",
    ], outcome  # fmt: skip
    assert outcome.code == 0 and image.read_bytes() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to arrange")
def test_an_image_where_shared_memory_is_small(image_of: Callable[[str], Path]) -> None:
    small = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=2M none /dev/shm && exec "$@"', "sh"]
    outcome = execute([*small, *POLYNIX, "run", "--rootfs", str(image_of("ext4")), "--", "/bin/sh", "-c", "cat /bin/* /data/* | busybox wc -c"], cwd="/")
    expected = sum(path.stat().st_size for part in ("bin", "data") for path in image_of("ext4").with_name("tree").joinpath(part).iterdir())
    assert (outcome.out.strip(), outcome.code) == (b"%d" % expected, 0), outcome


def test_only_what_is_touched_is_in_memory(image_of: Callable[[str], Path]) -> None:
    script = "grep -A2 /bin/busybox /proc/self/smaps | awk '/Rss/ {total += $2} /Size/ {size += $2} END {print total < size}'; cat /proc/self/smaps >/dev/null"
    outcome = run_polynix(["/bin/busybox", "sh", "-c", script], flags=["--rootfs", str(image_of("ext4"))], cwd="/")
    assert outcome.out.strip() == b"1", outcome


@pytest.mark.parametrize("kind", ["ext4", "gzip"])
def test_others_go_on_while_a_program_is_paged_in(kind: str, image_of: Callable[[str], Path], tmp_path: Path) -> None:
    """What exec reads of it is awaited: the kernel's loop never stands still."""
    image = shutil.copy(image_of(kind), tmp_path)  # which nobody has read yet
    module = Path(__file__).with_name("page_ins.py")
    flags = ["--rootfs", str(image), "--env", "PATH=/bin", "--feature", str(module)]
    outcome = run_polynix(["/bin/sh", "-c", "paged nothing 2>/dev/null; busybox echo done"], flags=flags, cwd="/")
    assert (outcome.code, outcome.out.splitlines()[-1:], outcome.err) == (0, [b"done"], b""), outcome


def test_the_page_cache_makes_room(image_of: Callable[[str], Path]) -> None:
    """More is read than the container has memory for, file by file; what is cached is told, and stays within what guests leave."""
    script = """
        cd /tmp; i=0; while [ $i -lt 4 ]; do i=$((i+1)); cat /data/big > /dev/null; done; grep ^Cached /proc/meminfo
        cat /data/part* | wc -c; grep ^Cached /proc/meminfo"""
    tree = image_of("ext4").with_name("tree-of-parts")
    (tree / "data").mkdir(parents=True)
    for name in ("bin", "tmp", "dev", "proc"):
        (tree / name).mkdir()
    shutil.copy("/usr/bin/busybox", tree / "bin/busybox")
    (tree / "bin/sh").symlink_to("busybox")
    (tree / "data/big").write_bytes(random.Random(1).randbytes(2 << 20))
    for number in range(40):
        (tree / f"data/part{number}").write_bytes(random.Random(number).randbytes(2 << 20))
    image = tree.with_name("parts")
    subprocess.run(["mksquashfs", str(tree), str(image), "-quiet", "-no-progress", "-noD"], check=True, env={"PATH": PATH}, stdout=subprocess.DEVNULL)
    outcome = run_polynix(["/bin/sh", "-c", script], flags=["--rootfs", str(image), "--memory", "48M", "--env", "PATH=/bin"], cwd="/")
    before, _kilobytes, size, after, *_ = [word for word in outcome.out.split() if word.isdigit() or word == b"kB"]
    assert int(size) == 80 << 20, outcome
    assert 2 << 10 <= int(before) < 16 << 10 and 16 << 10 < int(after) <= 52 << 10, outcome


def test_what_cannot_be_read_is_an_error_of_its_reader_only(image_of: Callable[[str], Path]) -> None:
    """The image is cut short under a container: what lies behind the cut gives SIGBUS, EIO and EFAULT, and the rest goes on."""
    image = image_of("ext4").with_name("cut")
    shutil.copy(image_of("ext4"), image)
    whole, data = image.read_bytes(), content()
    cut = whole.index(data[CHUNK * 11 : CHUNK * 12]) + CHUNK
    assert whole[cut : cut + 4096] == data[CHUNK * 12 : CHUNK * 12 + 4096]
    script = "cat /bin/* >/dev/null; ls -l /data >/dev/null; echo ready; read line; paged x /data/big; echo alive"
    command = [*POLYNIX, "run", "--rootfs", str(image), "--env", "PATH=/bin", "--", "/bin/sh", "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.truncate(image, cut)
        out, _ = process.communicate("go\n", timeout=60)
    assert out.splitlines() == [
        f"touch: signal {signal.SIGBUS:d} code 2 at {len(data) // 2}", "read: -1 Input/output error", "write: -1 Bad address", "alive",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (b"", "is no image of a file system"),
        (b"\0" * 4096, "is no image of a file system"),
        (b"\0" * 1024 + b"\xe2\xe1\xf5\xe0" + bytes(4096), "does not read erofs"),
    ],
)
def test_what_is_no_image(damage: bytes, message: str) -> None:
    with directory("image") as root:
        (root / "image").write_bytes(damage)
        outcome = run_polynix(["/bin/true"], flags=["--rootfs", str(root / "image")], cwd="/")
        assert outcome.code == 125 and message in outcome.err.decode() and outcome.err.count(b"\n") == 1, outcome


def test_a_root_directory_that_is_damaged(image_of: Callable[[str], Path]) -> None:
    image = image_of("gzip")
    damaged = image.with_name("damaged")
    damaged.write_bytes(image.read_bytes()[:96] + os.urandom(image.stat().st_size - 96))
    outcome = run_polynix(["/bin/true"], flags=["--rootfs", str(damaged)], cwd="/")
    assert outcome.code == 125 and outcome.err.count(b"\n") == 1, outcome
    assert b"root directory of the image can't be read" in outcome.err, outcome
