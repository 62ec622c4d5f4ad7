"""Waits for a condition with a deadline. No test sleeps for a fixed time and hopes."""

import time


class DeadlinePassed(AssertionError):
    """What was waited for did not come about."""


def wait_until(condition, what, seconds=20.0, every=0.02, at_most=0.25):
    """Returns the first true value of `condition()`; raises when `seconds` have passed.

    It is asked `every` so many seconds, then less often, down to every `at_most`: who measures the time wants them equal.
    """
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise DeadlinePassed(f"{what}: not within {seconds} s (last seen: {value!r})")
        time.sleep(every)
        every = min(every * 1.5, at_most)
