"""Streams that run all the while a test misuses the service, each compared with what it must say."""

import threading
import time

from .waiting import wait_until
from .workload import answer


class Streams:
    """`clients` streams at any time, of `requests` in turn. Use as a context manager.

    check() waits until each client has finished a whole stream that began after the call, and fails if any stream,
    ever, failed or said something else than `expected`.
    """

    def __init__(self, address, requests, expected, clients):
        self._address, self._requests, self._expected = address, requests, expected
        self._stop, self._failures = threading.Event(), []
        self._finished = [0] * clients
        self._longest_gaps = [0.0] * clients
        self._threads = [threading.Thread(target=self._run, args=(i,), daemon=True) for i in range(clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def _run(self, client):
        number = client
        while not self._stop.is_set():
            try:
                self._stream(client, number % len(self._requests))
            except Exception as error:  # Whatever it was, check() shows it.
                self._failures.append(repr(error))
                return
            self._finished[client] += 1
            number += len(self._threads)

    def _stream(self, client, number):
        last = None

        def on_event():
            nonlocal last
            now = time.monotonic()
            if last is not None:
                self._longest_gaps[client] = max(self._longest_gaps[client], now - last)
            last = now

        found, expected = answer(self._address, self._requests[number], on_event), self._expected[number]
        assert self._is_as_expected(found, expected), f"got {found[:500]} expected {expected[:500]}"

    def _is_as_expected(self, found, expected):
        return found == expected

    def check(self, timeout=60.0):
        before = list(self._finished)
        # The stream under way at the call does not count as begun after it, hence two.
        wait_until(lambda: self._failures or all(now >= then + 2 for now, then in zip(self._finished, before)),
                   "every running stream goes on", timeout)
        assert not self._failures, self._failures

    def finished(self):
        """Streams so far."""
        assert not self._failures, self._failures
        return sum(self._finished)

    def take_longest_gap(self):
        """The longest time between two events of a stream since the last call, s."""
        longest = max(self._longest_gaps)
        self._longest_gaps = [0.0] * len(self._longest_gaps)
        return longest

    def __exit__(self, *unused):
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        assert not self._failures, self._failures


class Undisturbed(Streams):
    """`count` clients that stream one request again and again; what it must say is asked first."""

    def __init__(self, address, user, count=3):
        fields = {"model": "default", "messages": [{"role": "user", "content": user}], "temperature": 0.8, "seed": 12,
                  "max_tokens": 200, "ignore_eos": True, "logprobs": True, "top_logprobs": 2}
        super().__init__(address, [("/v1/chat/completions", fields, True)], [], count)

    def __enter__(self):
        self._expected.append(answer(self._address, self._requests[0]))
        return super().__enter__()
