"""Real programs of the host's Debian print the same, and exit the same, under polynix as on Linux."""

from __future__ import annotations

import subprocess

import pytest
from integration.snippets import HERE, batch_of, load, native_results, polynix_results, results

CASES = [pytest.param(path, name, id=f"{path.stem}::{name}") for path in sorted(HERE.glob("*.snippets")) for name in load(path).snippets]


@pytest.mark.parametrize(("path", "name"), CASES)
@pytest.mark.timeout(900)
def test_snippet(path, name, second_look):
    file = load(path)
    if missing := file.missing():
        pytest.skip(f"not installed: {' '.join(missing)}")
    batch = tuple(batch_of(file, name))
    second_look(
        lambda: compare(native_results(path, batch)[name], polynix_results(path, batch)[name]),
        lambda: compare(results(path, (name,), True)[name], results(path, (name,), False)[name]),
    )


def compare(native, here):
    assert native.verdict == "OK", f"on the host: {native.verdict}\n{native.text}"
    assert here.verdict == "OK", f"{here.verdict}\n{here.text}"
    assert here.text == native.text


def test_every_busybox_applet_is_run_or_excluded_with_a_reason():
    """The list of exclusions names an applet and its reason on each line; no applet may be forgotten."""
    listing = subprocess.run(["busybox", "--list"], capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("no busybox")
    excluded = {}
    for line in (HERE / "busybox.excluded").read_text().splitlines():
        if line and not line.startswith("#"):
            applet, _, reason = line.partition(":")
            assert len(reason.strip()) > 8, f"busybox.excluded: {applet}: give a reason"
            excluded[applet] = reason
    run = set(load(HERE / "busybox.snippets").snippets)
    applets = set(listing.stdout.split())
    assert run.isdisjoint(excluded), f"both run and excluded: {sorted(run & set(excluded))}"
    assert applets <= run | set(excluded), f"neither run nor excluded: {sorted(applets - run - set(excluded))}"
