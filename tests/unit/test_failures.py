from __future__ import annotations

from ipaddress import ip_address

import pytest

from wxsup.failures import ADDRESSES, BURST, INTERVAL, Failures


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def failures(clock: Clock) -> Failures:
    return Failures(clock)


def test_a_burst_is_let_pass_then_a_few_a_minute(failures: Failures, clock: Clock) -> None:
    address = ip_address("192.0.2.1")
    assert [failures.count(address) for _ in range(BURST)] == [0.0] * BURST
    assert failures.count(address) == pytest.approx(INTERVAL)
    clock.now += INTERVAL / 2
    assert failures.count(address) == pytest.approx(INTERVAL / 2)
    clock.now += INTERVAL / 2
    assert failures.count(address) == 0.0
    assert failures.count(address) == pytest.approx(INTERVAL)
    clock.now += BURST * INTERVAL
    assert [failures.count(address) for _ in range(BURST)] == [0.0] * BURST


def test_each_address_has_its_own_and_a_subscriber_of_ipv6_one(failures: Failures) -> None:
    for number in range(BURST):
        assert failures.count(ip_address(f"2001:db8::{number:x}")) == 0.0
    assert failures.count(ip_address("2001:db8::ffff:1")) > 0
    assert failures.count(ip_address("2001:db8:0:1::1")) == 0.0
    assert failures.count(ip_address("192.0.2.1")) == failures.count(None) == 0.0


def test_memory_is_bounded_and_who_fails_most_is_not_forgotten_for_it(failures: Failures) -> None:
    worst = ip_address("192.0.2.1")
    passed = 0
    for number in range(2 * ADDRESSES):
        failures.count(ip_address(0x0A000000 + number))
        passed += not failures.count(worst)
    assert len(failures._until) == ADDRESSES
    assert passed == BURST
