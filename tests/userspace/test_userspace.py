"""Each case of each program passes on the host's Linux, and then under polynix with the same output (or is expected to fail)."""

from __future__ import annotations

import tomllib

import pytest
from userspace.programs import HERE, cases_of, native_results, polynix_results, programs, results_of_one

EXPECTATIONS: dict[str, str] = {
    f"{program}::{case}": reason for program, cases in tomllib.loads((HERE / "expectations.toml").read_text()).items() for case, reason in cases.items()
}
CASES = [pytest.param(source, name, id=f"{source.name}::{name}") for source in programs() for name in cases_of(source)]


@pytest.mark.parametrize(("source", "name"), CASES)
@pytest.mark.timeout(600)
def test_userspace(source, name, second_look):
    second_look(
        lambda: compare(source, name, native_results(source)[name], polynix_results(source)[name]),
        lambda: compare(source, name, *results_of_one(source, name)),
    )


def compare(source, name, native, here):
    if native.verdict == "SKIP":
        pytest.skip(f"on the host: {native.text}")
    assert native.verdict == "OK", f"on the host: {native.verdict}\n{native.text}"
    passed = here.verdict == "OK" and here.text == native.text
    reason = EXPECTATIONS.get(f"{source.name}::{name}")
    if reason is not None:
        assert not passed, f"passes, but stands in expectations.toml ({reason}): take the line out"
        pytest.xfail(reason)
    assert here.verdict == "OK", f"{here.verdict}\n{here.text}"
    assert here.text == native.text


def test_expectations_name_cases_and_reasons():
    known = {param.id for param in CASES}
    for key, reason in EXPECTATIONS.items():
        assert key in known, f"expectations.toml: no such case: {key}"
        assert len(reason) > 10, f"expectations.toml: {key}: give a reason"


def test_every_program_has_cases():
    assert [source.name for source in programs() if not cases_of(source)] == []
