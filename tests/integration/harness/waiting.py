"""Deadlines."""

import time


def wait_until(condition, what, timeout=30.0, interval=0.02):
    """Returns condition()'s first true value; AssertionError naming `what` and the last value after `timeout` s."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what} (last value: {value!r})")
        time.sleep(interval)
