"""The three processes as the dev overlay starts them, but on loopback: probes answer, a request does, SIGTERM ends."""

import contextlib

import pytest

from harness import http
from harness.manifests import PROCESSES, containers, of_kind, render
from harness.metrics import Metrics
from harness.paths import binary
from harness.processes import ANY, Process
from harness.waiting import wait_until

OVERLAY = "dev"


def arguments(entry, addresses):
    """Those of the manifest, listening on any port of loopback, dialling the processes that run here."""
    args = []
    for arg in entry.args:
        name, _, value = arg.partition("=")
        if value.startswith("0.0.0.0:"):
            value = ANY
        elif value.startswith("tandem-"):
            value = addresses[value.split(":")[0].removeprefix("tandem-")]["grpc"]
        args.append(f"{name}={value}" if value else name)
    return args


@pytest.fixture(scope="module")
def system():
    """{process: its addresses} and {process: Process}"""
    entries = {entry.where.split()[1]: entry for entry in containers() if entry.where.startswith(OVERLAY)}
    addresses, processes = {}, {}
    with contextlib.ExitStack() as stack:
        for name in reversed(PROCESSES):  # who is dialled starts first
            process = Process([binary(entries[name].program), *arguments(entries[name], addresses)])
            processes[name] = stack.enter_context(process)
            addresses[name] = process.addresses()
        yield addresses, processes


def probe(address, service):
    """What `tandem doctor` prints: SERVING or NOT_SERVING."""
    process = Process([binary("tandem"), "doctor", f"--probe={service}", f"--address={address}"])
    with process:
        return process.read_line()


def test_every_probe_of_the_manifests_is_answered(system):
    addresses, _ = system
    deployments = of_kind(render(OVERLAY), "Deployment")
    for name in PROCESSES:
        spec, = deployments[f"tandem-{name}"]["spec"]["template"]["spec"]["containers"]
        services = [spec[kind]["grpc"]["service"] for kind in ("startupProbe", "readinessProbe", "livenessProbe")]
        for service in services:
            wait_until(lambda: probe(addresses[name]["grpc"], service) == "SERVING", f"{service} of {name}", timeout=60)


def test_a_request_is_answered_with_drafts(system):
    addresses, _ = system
    verifier = Metrics(addresses["verifier"]["metrics"])
    wait_until(lambda: verifier.read().sum("tandem_drafter_up") == 1, "the drafter connected", timeout=60)
    answer = http.post(addresses["gateway"]["http"], "/v1/chat/completions",
                       {"model": "smollm2-135m", "temperature": 0, "max_tokens": 48, "ignore_eos": True,
                        "messages": [{"role": "user", "content": "What is 17 + 25? Think step by step."}]})
    assert answer.status == 200, answer
    assert answer.json()["usage"]["completion_tokens"] == 48
    scrape = verifier.read()
    assert scrape.sum("tandem_spec_proposed_tokens_total") > 0
    assert scrape.by_label("tandem_drafter_streams", "transport") == {"inline": 1, "shm": 0}


def test_each_ends_in_time_when_told(system):
    _, processes = system
    for name in PROCESSES:
        assert processes[name].terminate(timeout=45) == 0, name
