"""Slow work on threads, listened over."""

import threading

import pytest

from agent.ear import Background, TimeIsUp
from agent.testing.clock import FakeClock


def background(every_s=0.005):
    return Background(FakeClock(), listen_every_s=every_s)


def test_what_all_producers_yield_is_read_until_the_last_has_ended():
    work = background()
    for start in (0, 10):
        work.start(lambda start=start: iter(range(start, start + 3)))
    assert sorted(work.read(lambda: None, until=10)) == [0, 1, 2, 10, 11, 12]


def test_what_a_producer_raises_is_raised_where_it_is_read():
    def produce():
        yield 1
        raise KeyError("gone")

    work = background()
    work.start(produce)
    read = work.read(lambda: None, until=10)
    assert next(read) == 1
    with pytest.raises(KeyError):
        next(read)


def test_what_is_heard_over_silent_work_interrupts_it():
    def hear():
        raise InterruptedError

    work = background()
    work.start(lambda: iter([threading.Event().wait(5)]))
    with pytest.raises(InterruptedError):
        list(work.read(hear, until=10))


def test_what_is_heard_over_busy_work_interrupts_it_too():
    clock = FakeClock()
    heard = []

    def produce():
        for number in range(3):
            clock.advance(1)
            yield number
            handed_over.wait(1)

    def hear():
        heard.append(clock.monotonic())

    handed_over = threading.Event()
    work = Background(clock, listen_every_s=1)
    work.start(produce)
    for _ in work.read(hear, until=100):
        handed_over.set()
    assert heard


def test_time_is_up_by_the_clock_and_by_patience_where_the_clock_stands_still():
    for until in (0.0, 0.02):
        work = background()
        work.start(lambda: iter([threading.Event().wait(5)]))
        with pytest.raises(TimeIsUp):
            list(work.read(lambda: None, until=until))


def test_abandoned_work_stops_at_its_next_item_and_is_closed():
    closed = threading.Event()
    go_on = threading.Event()

    def produce():
        try:
            while True:
                yield 1
                go_on.wait(5)
        finally:
            closed.set()

    work = background()
    work.start(produce)
    next(work.read(lambda: None, until=10))
    work.abandon()
    go_on.set()
    assert closed.wait(5)
