"""The spin policy, against a clock of our own and a count of running guests."""

from __future__ import annotations

from typing import Any

from polynix.kernelproc.spin_policy import (
    ANSWER_SPIN_NS,
    FAILURES_ALLOWED,
    FIRST_FAILURES_ALLOWED,
    FIRST_QUIET_NS,
    FIRST_SPINS,
    FIRST_SPINS_NS,
    HOT_SPIN_NS,
    LATE_ANSWERS,
    LONGEST_QUIET_NS,
    MOST_PROMPT_EXITS,
    PROMPT_EXITS,
    PROMPT_EXITS_GATHERED,
    STEADY_SUCCESSES,
    SpinPolicy,
)

CPUS = 4


class Machine:
    """What the policy looks at: the monitor's two words, and the time."""

    def __init__(self, running: int = 1, can_pin: bool = False) -> None:
        self.running = running
        self.can_pin = can_pin
        self.gathered = False
        self.stub_spin = 0
        self.late_answers = 0
        self.time = 1_000_000_000
        monitor: Any = self
        self.policy = SpinPolicy(monitor, CPUS, lambda: self.time)

    def gather(self) -> bool:
        self.gathered = self.can_pin
        return self.can_pin

    def scatter(self) -> None:
        self.gathered = False

    def fail(self) -> None:
        assert self.policy.before_wait() == HOT_SPIN_NS
        self.time += HOT_SPIN_NS
        self.policy.failed()

    def make_quiet(self) -> int:
        """Fail until it gives up; returns how long it does."""
        while self.policy.before_wait():
            self.policy.failed()
        begin = self.time
        while not self.policy.before_wait():
            self.time += FIRST_QUIET_NS
        return self.time - begin

    def sleep(self, duration: int, exits: bool = True) -> None:
        assert self.policy.before_wait() == 0
        self.policy.before_sleep()
        self.time += duration
        self.policy.after_sleep(exits)


def test_a_conversation_is_hot() -> None:
    machine = Machine()
    for _ in range(10):
        assert machine.policy.before_wait() == HOT_SPIN_NS
        machine.policy.succeeded()
    assert machine.policy.hot
    assert machine.stub_spin == ANSWER_SPIN_NS


def test_nothing_spins_for_an_idle_container() -> None:
    machine = Machine(running=0)
    assert machine.policy.before_wait() == 0


def test_nobody_spins_without_a_free_cpu() -> None:
    machine = Machine(running=CPUS)
    assert machine.policy.before_wait() == 0
    assert machine.stub_spin == 0
    machine.running = CPUS - 1
    assert machine.policy.before_wait() == HOT_SPIN_NS
    assert machine.stub_spin == ANSWER_SPIN_NS


def test_failures_in_a_row_end_it() -> None:
    machine = Machine()
    for _ in range(FAILURES_ALLOWED - 1):
        machine.fail()
    machine.policy.succeeded()
    for _ in range(FAILURES_ALLOWED):
        machine.fail()
    assert machine.policy.before_wait() == 0
    assert not machine.policy.hot


def test_threads_spin_for_an_answer_while_the_kernel_sleeps() -> None:
    machine = Machine()
    while machine.policy.before_wait():
        machine.policy.failed()
    assert machine.stub_spin == ANSWER_SPIN_NS
    machine.late_answers += LATE_ANSWERS - 1
    machine.sleep(500_000)
    assert machine.stub_spin == ANSWER_SPIN_NS
    machine.late_answers += 1
    machine.sleep(100_000)
    assert machine.stub_spin == 0


def test_late_answers_are_forgotten_with_the_quiet_time() -> None:
    machine = Machine()
    machine.late_answers = 3 * LATE_ANSWERS
    machine.make_quiet()
    while machine.policy.before_wait():
        machine.policy.failed()
    assert machine.policy.before_wait() == 0
    assert machine.stub_spin == ANSWER_SPIN_NS


def test_quiet_times_double_up_to_a_limit() -> None:
    machine = Machine()
    times = [machine.make_quiet() for _ in range(9)]
    assert times == [min(FIRST_QUIET_NS << count, LONGEST_QUIET_NS) for count in range(9)]


def test_a_new_hot_time_begins_with_longer_spins_that_may_fail() -> None:
    machine = Machine()
    machine.make_quiet()  # whose end was a first longer spin
    assert [machine.policy.before_wait() for _ in range(FIRST_SPINS)] == [FIRST_SPINS_NS] * (FIRST_SPINS - 1) + [HOT_SPIN_NS]
    machine.make_quiet()
    for _ in range(FIRST_FAILURES_ALLOWED - 1):
        machine.policy.failed()
        assert machine.policy.before_wait()
    machine.policy.failed()
    assert machine.policy.before_wait() == 0


def test_steady_success_makes_quiet_times_short_again() -> None:
    machine = Machine()
    for _ in range(5):
        machine.make_quiet()
    for _ in range(STEADY_SUCCESSES):
        assert machine.policy.before_wait()
        machine.policy.succeeded()
    assert machine.make_quiet() == FIRST_QUIET_NS


def test_prompt_exits_end_a_quiet_time() -> None:
    machine = Machine()
    for _ in range(6):
        machine.make_quiet()
    while machine.policy.before_wait():
        machine.policy.failed()
    sleeps = 0
    while not machine.policy.before_wait():
        machine.sleep(30_000)
        sleeps += 1
    assert sleeps == PROMPT_EXITS * MOST_PROMPT_EXITS


def test_steady_success_lets_few_prompt_exits_do() -> None:
    for can_pin, few, duration in ((False, PROMPT_EXITS, 30_000), (True, PROMPT_EXITS_GATHERED, 10_000)):
        machine = Machine(can_pin=can_pin)
        for _ in range(STEADY_SUCCESSES):
            machine.policy.succeeded()
        while machine.policy.before_wait():
            machine.policy.failed()
        sleeps = 0
        while not machine.policy.before_wait():
            machine.sleep(duration)
            sleeps += 1
        assert sleeps == 2 * few


def test_late_exits_and_other_events_do_not() -> None:
    machine = Machine()
    for _ in range(6):
        machine.make_quiet()
    while machine.policy.before_wait():
        machine.policy.failed()
    for _ in range(2 * PROMPT_EXITS):
        machine.sleep(30_000)
        machine.sleep(200_000)
        machine.sleep(30_000, exits=False)


def test_a_warm_time_is_spent_on_one_cpu() -> None:
    machine = Machine(can_pin=True)
    while machine.policy.before_wait():
        assert not machine.gathered
        machine.policy.failed()
    assert machine.gathered
    for _ in range(20):
        machine.sleep(10_000)  # a switch of threads: no reason to spin
    machine.time += FIRST_QUIET_NS
    assert machine.policy.before_wait() == FIRST_SPINS_NS
    assert not machine.gathered


def test_busy_cpus_scatter() -> None:
    machine = Machine(can_pin=True)
    while machine.policy.before_wait():
        machine.policy.failed()
    machine.running = CPUS
    assert machine.policy.before_wait() == 0
    assert not machine.gathered
    machine.running = 1
    assert machine.policy.before_wait() == 0  # still quiet, on any CPU
