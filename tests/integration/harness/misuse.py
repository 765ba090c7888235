"""What must hold when somebody misuses a gateway: refusals are counted, others are served, nothing stays behind."""

import contextlib

from . import http
from .processes import descriptors, resident_bytes
from .waiting import wait_until

REJECTED = "tandem_requests_rejected_total"
# Beyond what it was: what the allocator keeps, and the streams that run beside the tests.
MEMORY, DESCRIPTORS = 48 << 20, 8


@contextlib.contextmanager
def refusals(stack, at_least=False, **reasons):
    """`with refusals(stack, validation=3)`: the gateway refuses exactly three requests, for that reason.

    at_least: or more, where streams or retries of others may be refused, too.
    """
    def counts():
        return stack.gateway_metrics.read().by_label(REJECTED, "reason")

    def risen():
        return {reason: count - before[reason] for reason, count in counts().items() if count != before[reason]}

    def as_expected():
        found = risen()
        if at_least:
            return all(found.get(reason, 0) >= count for reason, count in reasons.items())
        return found == reasons

    before = counts()
    yield
    with contextlib.suppress(AssertionError):
        wait_until(as_expected, "", 5)  # a door counts before it answers, but the last answer may have been cut off
    assert as_expected(), f"refused {risen()}, expected {reasons}"


class Afterwards:
    """Of one stack. Each `with` checks that memory and descriptors are back and a good request gets its right text."""

    def __init__(self, stack, user, greedy_text):
        self._stack, self._user, self._greedy_text = stack, user, greedy_text
        self.check_good_request()
        self._memory, self._descriptors = resident_bytes(stack.gateway.pid), descriptors(stack.gateway.pid)

    def __enter__(self):
        return self

    def __exit__(self, kind, *unused):
        if kind is None:
            self.check()

    def check(self):
        pid = self._stack.gateway.pid
        wait_until(lambda: descriptors(pid) <= self._descriptors + DESCRIPTORS, "descriptors back")
        wait_until(lambda: resident_bytes(pid) <= self._memory + MEMORY,
                   f"memory back to {self._memory >> 20} MiB + {MEMORY >> 20} MiB", 10)
        self.check_good_request()

    def check_good_request(self):
        answer = http.chat(self._stack.http, self._user, temperature=0)
        assert answer.status == 200, answer
        assert answer.json()["choices"][0]["message"]["content"] == self._greedy_text
