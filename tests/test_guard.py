"""Calls in a process of their own: what they return and raise, and what becomes of those that never would."""

import os
import time

import pytest

from vfusion3d.data.guard import Guarded, LimitError, Limits


def test_a_call_that_hangs_or_eats_or_dies_is_ended_and_the_next_one_is_answered():
    guarded = Guarded(eval, Limits(seconds=2, gigabytes=0.5))
    try:
        assert guarded("6 * 7") == 42
        with pytest.raises(ZeroDivisionError):
            guarded("1 / 0")
        process = guarded._process.pid
        assert guarded("__import__('os').getpid()") == process != os.getpid()
        start = time.monotonic()
        with pytest.raises(LimitError, match="took more than 2 s"):
            guarded("__import__('time').sleep(60)")
        assert time.monotonic() - start < 20
        with pytest.raises(LimitError, match=r"took more than 0\.5 GB of memory"):
            guarded("len(bytearray(b'x') * 2**30) and __import__('time').sleep(60)")
        with pytest.raises(LimitError, match="SIGKILL"):
            guarded("__import__('os').kill(__import__('os').getpid(), 9)")
        assert guarded("'there'") == "there"
    finally:
        guarded.close()


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"gigabytes": -1}, {"seconds": float("inf")}, {"gigabytes": 1e99}])
def test_limits_without_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="must be above 0"):
        Limits(**wrong)
