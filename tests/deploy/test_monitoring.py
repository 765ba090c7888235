"""deploy/monitoring on a live system: a gateway, a verifier and a drafter under load, Prometheus, Alertmanager.

Files are used as they are; only addresses, and times that would make a test wait for minutes, are replaced.
"""

import contextlib
import http.server
import json
import math
import re
import threading

import pytest
import yaml

from harness.background import Streams
from harness.drafters import Drafter, SpeculatingStack
from harness.paths import SOURCE
from harness.processes import Process
from harness.prometheus import Prometheus, free_port
from harness.waiting import wait_until
from harness.workload import answers, mixed_requests

MONITORING = SOURCE / "deploy/monitoring"
# Long enough for the requests of the load to end in it, short enough to wait for.
RATE_INTERVAL = "15s"
LOCAL_JOBS = {"127.0.0.1:8002": "gateway", "127.0.0.1:8012": "verifier", "127.0.0.1:8022": "drafter"}


def load(name):
    return yaml.safe_load((MONITORING / name).read_text(encoding="utf-8"))


def dashboard_queries():
    """[(panel: legend, expression)] with Grafana's variables filled in."""
    queries = []
    for path in sorted(MONITORING.glob("dashboards/*.json")):
        dashboard = json.loads(path.read_text(encoding="utf-8"))
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                expression = target["expr"].replace("$__rate_interval", RATE_INTERVAL).replace("$instance", ".*")
                assert "$" not in expression, expression
                queries.append((f"{panel['title']}: {target['legendFormat']}", expression))
    return queries


def selectors(expression):
    """The series selectors of a rule: name{labels} of each metric."""
    found = re.findall(r"\b((?:tandem|process)_\w+|tandem:[\w:]+|up)\b(\{[^}]*\})?", expression)
    assert found, expression
    return [name + labels for name, labels in found]


RULES = [rule for group in load("rules.yaml")["groups"] for rule in group["rules"]]


def shortened(rules):
    """The rules with every wait of a second: what a test of delivery cannot wait for."""
    for group in rules["groups"]:
        for rule in group["rules"]:
            if "for" in rule:
                rule["for"] = "1s"
    return rules


@contextlib.contextmanager
def webhook():
    """A server that notes what Alertmanager posts: yields its port and the list of (path, body)."""
    received = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.path, json.loads(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *unused):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1], received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def alertmanager(directory, webhook_port):
    """Alertmanager with the example's routes: yields its address."""
    text = (MONITORING / "alertmanager.yaml").read_text(encoding="utf-8")
    assert "127.0.0.1:9095" in text
    config = yaml.safe_load(text.replace("127.0.0.1:9095", f"127.0.0.1:{webhook_port}"))
    for route in (config["route"], *config["route"]["routes"]):
        route.update(group_wait="1s", group_interval="1s")
    path = directory / "alertmanager.yml"
    path.write_text(json.dumps(config), encoding="utf-8")
    address = f"127.0.0.1:{free_port()}"
    with Process(["prometheus-alertmanager", f"--config.file={path}", f"--web.listen-address={address}",
                  f"--storage.path={directory / 'alertmanager'}", "--cluster.listen-address="]):
        yield address


class Scraped:
    """The system, what Prometheus says of it, and what the webhook got."""

    def __init__(self, stack, drafter, prometheus, received):
        self.stack, self.drafter, self.prometheus, self.received = stack, drafter, prometheus, received


@pytest.fixture(scope="module")
def scraped(tmp_path_factory):
    directory = tmp_path_factory.mktemp("monitoring")
    (directory / "rules.yaml").write_text(json.dumps(shortened(load("rules.yaml"))), encoding="utf-8")
    drafter = Drafter()
    with SpeculatingStack([drafter], ["--policy", "fixed:7"]) as stack, webhook() as (port, received), \
            alertmanager(directory, port) as manager:
        addresses = {"gateway": stack.gateway_metrics.address, "verifier": stack.verifier_metrics.address,
                     "drafter": drafter.metrics.address}
        config = load("prometheus-local.yaml")
        config["global"].update(scrape_interval="500ms", scrape_timeout="500ms", evaluation_interval="500ms")
        config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [manager]
        for job in config["scrape_configs"]:
            static = job["static_configs"][0]
            static["targets"] = [addresses[LOCAL_JOBS[target]] for target in static["targets"]]
        with Prometheus(directory, config=config) as prometheus:
            yield Scraped(stack, drafter, prometheus, received)


@pytest.fixture(scope="module")
def loaded(scraped):
    """The same under load, after as many seconds as a rate looks back."""
    requests = [request for request in mixed_requests(60, seed=4) if request[1]["max_tokens"] > 1]
    expected = answers(scraped.stack.http, requests, 8)
    with Streams(scraped.stack.http, requests, expected, clients=6) as streams:
        begin = streams.finished()
        wait_until(lambda: streams.finished() > begin + 30, "30 requests under Prometheus' eyes", timeout=60)
        yield scraped


def has_data(prometheus, expression):
    return any(not math.isnan(value) for _, value in prometheus.query(expression))


def test_every_query_of_the_dashboards_has_data_under_load(loaded):
    queries = dashboard_queries()
    assert len(queries) > 50
    missing = dict(queries)

    def all_there():
        for name in list(missing):
            if has_data(loaded.prometheus, missing[name]):
                del missing[name]
        return not missing

    try:
        wait_until(all_there, "data for every query", timeout=20, interval=0.5)
    except AssertionError:
        assert missing == {}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_every_series_of_a_rule_is_there(loaded, rule):
    for selector in selectors(rule["expr"]):
        wait_until(lambda: loaded.prometheus.query(selector), f"series {selector}", timeout=10, interval=0.2)
    if "record" in rule:
        wait_until(lambda: has_data(loaded.prometheus, rule["record"]), f"values of {rule['record']}", timeout=10,
                   interval=0.2)


def firing(prometheus):
    return {labels["alertname"] for labels, _ in prometheus.query('ALERTS{alertstate="firing"}')}


def test_no_page_fires_while_all_is_well(loaded):
    pages = {rule["alert"] for rule in RULES if rule.get("labels", {}).get("severity") == "page"}
    assert not firing(loaded.prometheus) & pages


def test_a_lost_drafter_reaches_the_webhook_and_so_does_its_return(scraped):
    def told(status):
        return [alert for path, message in list(scraped.received) if path == "/warnings"
                for alert in message["alerts"]
                if alert["labels"]["alertname"] == "TandemDrafterDown" and alert["status"] == status]

    assert not told("firing")
    scraped.drafter.kill()
    wait_until(lambda: told("firing"), "DrafterDown at the webhook", timeout=30)
    alert = told("firing")[0]
    assert alert["labels"]["job"] == "tandem-verifier"
    assert alert["annotations"]["runbook_url"] == "docs/runbook.md#tandemdrafterdown"
    scraped.drafter.start()
    wait_until(lambda: told("resolved"), "its end at the webhook", timeout=30)
