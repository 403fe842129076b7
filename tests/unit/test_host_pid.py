import os

import pytest

from isoform.host import pid

STAT = "4711 (a ) b (c) {state} 1 4711 4711 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 2 3"


def test_a_name_with_spaces_and_brackets_does_not_move_the_fields():
    assert pid.parse_stat(STAT.format(state="S")) == 987654


@pytest.mark.parametrize("state", ["Z", "X", "x"])
def test_the_dead_have_no_start_time(state):
    assert pid.parse_stat(STAT.format(state=state)) is None


def test_we_are_alive_and_someone_who_started_at_another_time_is_not_us():
    started = pid.start_time(os.getpid())
    assert started is not None
    assert pid.is_alive(os.getpid(), started)
    assert not pid.is_alive(os.getpid(), started - 1)


@pytest.mark.parametrize("number", [0, -1, 2**22 + 1])
def test_no_such_process(number):
    assert pid.start_time(number) is None
    assert not pid.is_alive(number, 1)
    assert pid.end(number, 1) is False


@pytest.fixture
def child():
    started = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
    yield started
    os.kill(started, 9)
    os.waitpid(started, 0)


async def test_ended_wakes_when_the_process_ends(child):
    started = pid.start_time(child)
    assert started is not None
    assert await pid.ended(child, started, 0.02) is False
    assert pid.end(child, started) is True
    assert await pid.ended(child, started, 5) is True
    assert not pid.is_alive(child, started)  # a zombie: not reaped yet


async def test_a_signal_never_reaches_a_later_owner_of_the_pid(child):
    started = pid.start_time(child)
    assert started is not None
    assert pid.end(child, started + 1) is False
    assert pid.is_alive(child, started)
    assert await pid.ended(child, started + 1, 1) is True
