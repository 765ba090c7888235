"""Streams that run all the while a test misuses the service, each compared with what it must say."""

import threading

from .waiting import wait_until
from .workload import answer


class Undisturbed:
    """`count` clients that stream one request again and again. Use as a context manager.

    check() waits until each has finished a whole stream that began after the call, and fails if any stream, ever,
    failed or said something else.
    """

    def __init__(self, address, user, count=3):
        fields = {"model": "default", "messages": [{"role": "user", "content": user}], "temperature": 0.8, "seed": 12,
                  "max_tokens": 200, "ignore_eos": True, "logprobs": True, "top_logprobs": 2}
        self._address, self._request = address, ("/v1/chat/completions", fields, True)
        self._stop, self._failures = threading.Event(), []
        self._finished = [0] * count
        self._threads = [threading.Thread(target=self._run, args=(i,), daemon=True) for i in range(count)]

    def __enter__(self):
        self._expected = answer(self._address, self._request)
        for thread in self._threads:
            thread.start()
        return self

    def _run(self, index):
        while not self._stop.is_set():
            try:
                found = answer(self._address, self._request)
            except Exception as error:  # Whatever it was, check() shows it.
                self._failures.append(repr(error))
                return
            if found != self._expected:
                self._failures.append(f"got {found[:500]} expected {self._expected[:500]}")
                return
            self._finished[index] += 1

    def check(self):
        before = list(self._finished)
        # The stream under way at the call does not count as begun after it, hence two.
        wait_until(lambda: self._failures or all(now >= then + 2 for now, then in zip(self._finished, before)),
                   "every running stream goes on")
        assert not self._failures, self._failures

    def __exit__(self, *unused):
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        assert not self._failures, self._failures
