"""The image tandem: what is in it, and a request through its three processes in a network of their own, with the
arguments of compose.yaml and of the dev overlay as they are. Run by image.sh after test_image_pull.py."""

import contextlib
import os
import signal
import subprocess

import pytest

from harness import http
from harness.images import UID, configuration, images, sandbox
from harness.manifests import COMPOSE, PROCESSES, containers, of_kind, render
from harness.metrics import Metrics
from harness.name_server import NameServer
from harness.processes import Process
from harness.waiting import wait_until

IMAGE = "tandem"
PROGRAMS = ("tandem", *(f"tandem-{name}" for name in PROCESSES))


def run(*command):
    return subprocess.run(sandbox(IMAGE, command), capture_output=True, text=True, timeout=60, check=False)


def test_configuration():
    config = configuration(IMAGE)
    assert config["User"] == f"{UID}:{UID}" and config["StopSignal"] == "SIGTERM"
    assert config["Entrypoint"] == ["/usr/bin/tandem"] and config["Cmd"] == ["--help"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == "tandem"
    assert len(labels["org.opencontainers.image.revision"]) == 40


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_run(program):
    result = run(f"/usr/bin/{program}", "--version")
    assert result.returncode == 0 and result.stdout.startswith(program), result


def test_nothing_else_is_in_it():
    root = images() / IMAGE
    assert sorted(os.listdir(root / "usr/bin")) == sorted(PROGRAMS)
    assert not any((root / folder).exists() for folder in ("bin", "sbin", "usr/sbin"))
    found = [os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names]
    assert not [path for path in found if os.lstat(path).st_mode & 0o6000], "set-uid files"
    # What a scanner reads: each package's status and licence.
    packages = os.listdir(root / "var/lib/dpkg/status.d")
    assert {"libc6", "libgrpc++1.51", "libstdc++6"} <= set(packages)
    for package in packages:
        assert (root / "usr/share/doc" / package / "copyright").exists(), package


def test_the_root_is_read_only():
    result = run("/usr/bin/tandem-verifier", "--model=smollm2-135m", "--listen=127.0.0.1:0", "--metrics=127.0.0.1:0",
                 "--trace=/usr/share/trace.jsonl")
    assert result.returncode == 1 and "Read-only file system" in result.stderr, result


def write_resolution(folder, hosts="", resolv=""):
    """The two files by which a container finds its peers."""
    for name, text in (("hosts", f"127.0.0.1 localhost {hosts}\n"), ("resolv.conf", resolv)):
        (folder / name).write_text(text, encoding="utf-8")
        os.chmod(folder / name, 0o644)
    for path in [folder, *folder.parents][:3]:  # pytest makes them for its own user alone
        os.chmod(path, 0o755)
    return folder


def start(stack, where, resolve):
    """{name: Process} with the arguments of `where`, started in any order, as compose and Kubernetes do."""
    processes = {}
    for entry in containers():
        place, name = entry.where.split()
        if place == where:
            command = sandbox(IMAGE, [f"/usr/bin/{entry.program}", *entry.args], resolve=resolve)
            processes[name] = stack.enter_context(Process(command))
            processes[name].addresses()
    assert set(processes) == set(PROCESSES)
    return processes


@pytest.fixture(scope="module", params=["compose", "dev"])
def system(request, tmp_path_factory):
    """The three processes. Peers' names come from /etc/hosts (compose) or, as in a cluster, from a name server."""
    folder = tmp_path_factory.mktemp("resolve")
    with contextlib.ExitStack() as stack:
        if request.param == "compose":
            yield start(stack, request.param, write_resolution(folder, hosts=" ".join(PROCESSES)))
        else:
            domain = "tandem.svc.cluster.local"
            services = of_kind(render(request.param), "Service")
            server = stack.enter_context(NameServer({f"{name}.{domain}": "127.0.0.1" for name in services}))
            resolv = f"nameserver 127.0.0.1\nsearch {domain} svc.cluster.local cluster.local\noptions ndots:5\n"
            yield start(stack, request.param, write_resolution(folder, resolv=resolv))
            assert {f"tandem-verifier.{domain}", f"tandem-drafter.{domain}"} <= server.asked


def healthy(name):
    _, *command = COMPOSE["services"][name]["healthcheck"]["test"]
    return run(*command).returncode == 0


def test_health_checks_succeed(system):
    for name in PROCESSES:
        wait_until(lambda: healthy(name), f"{name} healthy", timeout=60, interval=0.2)


def test_a_request_is_answered_with_drafts(system):
    verifier = Metrics("127.0.0.1:8012")
    wait_until(lambda: verifier.read().sum("tandem_drafter_up") == 1, "the drafter connected", timeout=60)
    answer = http.post("127.0.0.1:8000", "/v1/chat/completions",
                       {"model": "smollm2-135m", "temperature": 0, "max_tokens": 32, "ignore_eos": True,
                        "messages": [{"role": "user", "content": "What is the capital of France?"}]})
    assert answer.status == 200 and answer.json()["usage"]["completion_tokens"] == 32, answer
    wait_until(lambda: verifier.read().sum("tandem_spec_proposed_tokens_total") > 0, "drafts")


def test_each_ends_when_told(system):
    """The processes are the children of bwrap, which ends with what its child ended with."""
    for name in PROCESSES:
        child, = _descendants(system[name].pid, f"tandem-{name}")
        os.kill(child, signal.SIGTERM)
        assert system[name].wait(45) == 0, name


def _descendants(pid, program):
    """The processes below `pid` that run `program`."""
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
            for child in map(int, file.read().split()):
                with open(f"/proc/{child}/cmdline", "rb") as line:
                    if os.path.basename(line.read().split(b"\0")[0].decode()) == program:
                        found.append(child)
                found += _descendants(child, program)
    return found
