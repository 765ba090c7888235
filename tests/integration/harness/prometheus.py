"""A Prometheus server that scrapes processes of a test on loopback, and promtool."""

import json
import socket
import subprocess
import urllib.parse

from . import http
from .processes import Process
from .waiting import wait_until


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Prometheus:
    """`targets`: {job: HOST:PORT}, or a whole configuration. Ready when entered: each target has been scraped."""

    def __init__(self, directory, targets=None, config=None):
        self._directory = directory
        self._config = config or {
            "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms"},
            "scrape_configs": [{"job_name": job, "static_configs": [{"targets": [address]}]}
                               for job, address in targets.items()]}

    def __enter__(self):
        path = self._directory / "prometheus.yml"
        path.write_text(json.dumps(self._config), encoding="utf-8")  # which is YAML
        self._address = f"127.0.0.1:{free_port()}"
        self._process = Process(["prometheus", f"--config.file={path}", f"--web.listen-address={self._address}",
                                 f"--storage.tsdb.path={self._directory / 'data'}"])
        try:
            wait_until(self._scrapes_all, "Prometheus has scraped all", timeout=60, interval=0.1)
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(self, *unused):
        self._process.kill()

    def _scrapes_all(self):
        assert self._process.running(), self._process.stderr()[-3000:]
        try:
            up = {labels["job"]: value for labels, value in self.query("up")}
        except ConnectionRefusedError:
            return False
        return up == {job["job_name"]: 1 for job in self._config["scrape_configs"]}

    def query(self, expression):
        """[(labels, value)] of an instant query."""
        answer = http.get(self._address, "/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
        if answer.status == 503:  # still starting
            return []
        assert answer.status == 200, answer
        return [(entry["metric"], float(entry["value"][1])) for entry in answer.json()["data"]["result"]]


def check_metrics(address):
    """What `promtool check metrics` says of a process's page; empty if all is well."""
    page = http.get(address, "/metrics").body
    found = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, timeout=30, check=False)
    return (found.stdout + found.stderr).decode() or ("" if found.returncode == 0 else f"exit {found.returncode}")
