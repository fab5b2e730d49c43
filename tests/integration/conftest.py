"""What tests of containers share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from integration.service import Service, alive, descendants
from waiting import wait_until

import polynix


@pytest.fixture
def container() -> Iterator[polynix.Container]:
    """A fresh container."""
    with polynix.Container() as started:
        yield started


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One runner for most tests of a file; each uses names of its own."""
    service = Service(tmp_path_factory.mktemp("runner"))
    yield service
    below = descendants(service.process.pid)
    service.close()
    assert service.process.returncode == 0
    assert not service.directory.exists()
    assert wait_until(lambda: not any(alive(pid) for pid in below), 5)
    assert "Traceback" not in (service.parent / "errors").read_text()
