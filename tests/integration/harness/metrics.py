"""A process's /metrics page."""

import re

from . import http

_SAMPLE = re.compile(r"^([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Scrape:
    """The samples of one scrape. A name that no sample has is an AssertionError: a test must not pass on it."""

    def __init__(self, text):
        self._samples = []
        for line in text.splitlines():
            if line and not line.startswith("#"):
                match = _SAMPLE.match(line)
                assert match, f"malformed metrics line: {line!r}"
                self._samples.append((match[1], dict(_LABEL.findall(match[2] or "")), float(match[3])))

    def _named(self, name):
        samples = [sample for sample in self._samples if sample[0] == name]
        assert samples, f"no metric {name}"
        return samples

    def sum(self, name, **labels):
        return sum(value for _, have, value in self._named(name)
                   if all(have.get(key) == want for key, want in labels.items()))

    def by_label(self, name, label):
        values = {}
        for _, have, value in self._named(name):
            values[have[label]] = values.get(have[label], 0) + value
        return values

    def __contains__(self, name):
        return any(sample[0] == name for sample in self._samples)


class Metrics:
    def __init__(self, address):
        self.address = address

    def read(self):
        answer = http.get(self.address, "/metrics")
        assert answer.status == 200, answer
        return Scrape(answer.body.decode())
