"""Does ``keep FILE`` keep its promise? FILE must be the old text or the new one, whole, and the exit status must tell which. Run by ``pytest --polynix``.

The first test passes for both programs, as keep's own tests always did. The second lets one system call after the other fail, be cut short, or be the last one
that the process makes, and finds keep.c out: it does not look at what write, fsync and close answer.
"""

import subprocess
from errno import EINTR, EIO, ENOSPC
from pathlib import Path

import pytest

from polynix.scripting import each_call, fail, kill, shorten

HERE = Path(__file__).parent
OLD, NEW = "old\n" * 1000, "new\n" * 3000
KEEP = {"path": "/data/*", "process": "keep"}


@pytest.fixture(scope="session", params=["keep", "keep_fixed"])
def keep(request, tmp_path_factory):
    """The compiled program; it is called keep either way."""
    program = tmp_path_factory.mktemp(request.param) / "keep"
    subprocess.run(["cc", "-O2", "-w", "-o", program, HERE / f"{request.param}.c"], check=True)
    return program


@pytest.fixture
def data(container):
    """A disk with the old text."""
    container.run(["tee", "/data/file"], input=OLD, text=True, stdout=subprocess.DEVNULL, check=True)
    return container


@pytest.mark.polynix(tmpfs=["/data"])
def test_it_keeps_the_new_text(data, keep):
    assert data.run([keep, "/data/file"], input=NEW, text=True).returncode == 0
    assert data.run(["cat", "/data/file"], capture_output=True, text=True).stdout == NEW


@pytest.mark.polynix(tmpfs=["/data"])
@pytest.mark.polynix_faults(
    None,
    *each_call(fail("write", ENOSPC, **KEEP), 3),  # the disk is full at the first block, at the second, …
    *each_call(fail("fsync,close", EIO, **KEEP), 2),  # it breaks when the data reaches it
    *each_call(shorten("write", 1000, **KEEP), 3),
    *each_call(fail("read", EINTR, process="keep", path="pipe:*"), 3),
    *each_call(kill("write,fsync,rename", **KEEP), 5),
)
def test_nothing_is_lost_whatever_fails(data, keep):
    done = data.run([keep, "/data/file"], input=NEW, capture_output=True, text=True)
    kept = data.run(["cat", "/data/file"], capture_output=True, text=True).stdout
    assert kept == (NEW if done.returncode == 0 else OLD)
