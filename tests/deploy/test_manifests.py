"""What deploy/ and docker/ promise, against the programs: arguments, ports, networks, security, time to drain."""

import re
import subprocess

import pytest
import yaml

from harness.manifests import COMPOSE, DEPLOY, OVERLAYS, PROCESSES, containers, of_kind, render
from harness.paths import SOURCE, binary

UID = 65532
VERSION = re.search(r"VERSION (\S+) ", (SOURCE / "CMakeLists.txt").read_text(encoding="utf-8"))[1]
CONTAINERS = containers()
overlays = pytest.mark.parametrize("overlay", OVERLAYS)


def pods(overlay):
    """{owner: (labels, pod spec)} of all that runs."""
    objects = render(overlay)
    owners = {**of_kind(objects, "Deployment"), **of_kind(objects, "Job")}
    return {name: (owner["spec"]["template"]["metadata"]["labels"], owner["spec"]["template"]["spec"])
            for name, owner in owners.items()}


def container(overlay, process):
    return next(entry for entry in CONTAINERS if entry.where == f"{overlay} {process}")


def memory_bytes(text):
    number, unit = re.fullmatch(r"(\d+)([KMGT]iB?)", text).groups()
    return int(number) << {"K": 10, "M": 20, "G": 30, "T": 40}[unit[0]]


@pytest.mark.parametrize("entry", CONTAINERS, ids=str)
def test_the_programs_take_the_arguments(entry):
    result = subprocess.run([binary(entry.program), *entry.args, "--check-config"], capture_output=True, text=True,
                            timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    wrong = subprocess.run([binary(entry.program), *entry.args, "--no-such-flag", "--check-config"],
                           capture_output=True, text=True, timeout=60, check=False)
    assert wrong.returncode == 2, "a flag that does not exist is taken, too"


@overlays
def test_each_pod_is_locked_down(overlay):
    for name, (_, pod) in pods(overlay).items():
        assert pod["automountServiceAccountToken"] is False and pod["serviceAccountName"] == "tandem", name
        assert not any(pod.get(field) for field in ("hostNetwork", "hostPID", "hostIPC")), name
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True and context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert [context[field] for field in ("runAsUser", "runAsGroup", "fsGroup")] == [UID] * 3, name
        for spec in pod["containers"]:
            assert spec["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                               "capabilities": {"drop": ["ALL"]}}, name
            assert set(spec["resources"]["limits"]) == set(spec["resources"]["requests"]) == {"cpu", "memory"}, name
            assert spec["image"].endswith(f":{VERSION}"), spec["image"]
            mounts = {mount["mountPath"]: mount for mount in spec["volumeMounts"]}
            assert set(mounts) == {"/models", "/tmp"}, name
            assert mounts["/models"].get("readOnly", False) == (name != "tandem-pull"), name
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert "emptyDir" in volumes["tmp"] and volumes["models"]["persistentVolumeClaim"] == {"claimName": "models"}
    account = of_kind(render(overlay), "ServiceAccount")["tandem"]
    assert account["automountServiceAccountToken"] is False


@overlays
@pytest.mark.parametrize("process", PROCESSES)
def test_a_pod_may_take_longer_to_end_than_its_process(overlay, process):
    entry = container(overlay, process)
    _, pod = pods(overlay)[f"tandem-{process}"]
    drain = entry.duration("drain-delay") + entry.duration("drain-timeout")
    assert (drain > 0) == (process != "drafter")
    assert pod["terminationGracePeriodSeconds"] == 45 and drain + 5 <= 45


@overlays
@pytest.mark.parametrize("process", PROCESSES)
def test_ports_are_those_of_the_arguments(overlay, process):
    entry = container(overlay, process)
    _, pod = pods(overlay)[f"tandem-{process}"]
    spec, = pod["containers"]
    listening = {"grpc" if flag == "listen" else flag: port for flag, port in entry.ports().items()}
    assert {port["name"]: port["containerPort"] for port in spec["ports"]} == listening
    assert {probe: spec[probe]["grpc"]["port"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")} == \
        dict.fromkeys(("startupProbe", "readinessProbe", "livenessProbe"), listening["grpc"])


@overlays
def test_probes_wait_as_long_as_they_should(overlay):
    for process in PROCESSES:
        spec, = pods(overlay)[f"tandem-{process}"][1]["containers"]
        times = {name: (spec[name]["failureThreshold"], spec[name]["periodSeconds"])
                 for name in ("startupProbe", "readinessProbe", "livenessProbe")}
        assert times == {"startupProbe": (60, 10), "readinessProbe": (3, 2), "livenessProbe": (3, 10)}


@overlays
def test_services_lead_to_pods(overlay):
    services = of_kind(render(overlay), "Service")
    for name, service in services.items():
        selected = [pod for labels, pod in pods(overlay).values()
                    if service["spec"]["selector"].items() <= labels.items()]
        assert len(selected) == 1, name
        ports = {port["name"]: port["containerPort"] for port in selected[0]["containers"][0]["ports"]}
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"], name
        assert (service["spec"].get("clusterIP") == "None") == (name != "tandem-gateway"), name
    for process in PROCESSES:
        for host, port in container(overlay, process).peers():
            assert port in [entry["port"] for entry in services[host]["spec"]["ports"]], (process, host)


@overlays
def test_memory_and_threads_fit_the_limits(overlay):
    for process in ("verifier", "drafter"):
        entry = container(overlay, process)
        limits = pods(overlay)[f"tandem-{process}"][1]["containers"][0]["resources"]["limits"]
        assert entry.flag("threads") == limits["cpu"], entry
        # Weights, buffers and hidden rows need the rest.
        assert memory_bytes(entry.flag("kv-bytes")) <= memory_bytes(limits["memory"]) / 2, entry


@overlays
def test_disruption_budgets_are_of_deployments(overlay):
    budgets = of_kind(render(overlay), "PodDisruptionBudget")
    assert set(budgets) == {f"tandem-{process}" for process in PROCESSES}
    for name, budget in budgets.items():
        assert budget["spec"]["selector"]["matchLabels"].items() <= pods(overlay)[name][0].items()


def allowed(overlay, direction):
    """{(from, to, port)} that policies allow, `direction` being ingress or egress; a namespace is its labels."""
    key, peer_key = {"ingress": ("ingress", "from"), "egress": ("egress", "to")}[direction]
    found = set()
    for policy in of_kind(render(overlay), "NetworkPolicy").values():
        own = policy["spec"]["podSelector"].get("matchLabels", {}).get("app.kubernetes.io/name", "*")
        for rule in policy["spec"].get(key, []):
            for peer in rule[peer_key]:
                pod = peer.get("podSelector", {}).get("matchLabels", {})
                space = peer.get("namespaceSelector", {}).get("matchLabels", {})
                other = pod.get("app.kubernetes.io/name") or str(space or peer["ipBlock"]["cidr"])
                for port in rule["ports"]:
                    ends = (other, own) if direction == "ingress" else (own, other)
                    found.add((*ends, port["port"]))
    return found


@overlays
def test_networks_allow_what_the_arguments_need_and_nothing_else(overlay):
    links = {(f"tandem-{process}", host, port) for process in PROCESSES
             for host, port in container(overlay, process).peers()}
    assert links == {("tandem-gateway", "tandem-verifier", 8011), ("tandem-verifier", "tandem-drafter", 8021)}
    ports = {process: container(overlay, process).ports() for process in PROCESSES}
    clients = {("{'tandem-clients': 'allowed'}", "tandem-gateway", ports["gateway"][name]) for name in ("http", "grpc")}
    monitoring = {("{'tandem-monitoring': 'allowed'}", f"tandem-{process}", ports[process]["metrics"])
                  for process in PROCESSES}
    assert allowed(overlay, "ingress") == links | clients | monitoring
    dns = {("*", "{'kubernetes.io/metadata.name': 'kube-system'}", 53)}
    pull = {("tandem-pull", anywhere, 443) for anywhere in ("0.0.0.0/0", "::/0")}
    assert allowed(overlay, "egress") == links | dns | pull
    deny = of_kind(render(overlay), "NetworkPolicy")["deny-all"]["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_prometheus_scrapes_each_process():
    config = yaml.safe_load((DEPLOY / "monitoring/prometheus.yaml").read_text(encoding="utf-8"))
    services = of_kind(render("cpu"), "Service")
    scraped = set()
    for job in config["scrape_configs"]:
        discovery, = job["dns_sd_configs"]
        name, namespace, _ = discovery["names"][0].split(".")
        service = services[name]
        assert service["metadata"]["namespace"] == namespace
        assert service["spec"]["publishNotReadyAddresses"] is True
        assert [port["port"] for port in service["spec"]["ports"]] == [discovery["port"]]
        assert service["spec"]["selector"] == {"app.kubernetes.io/name": job["job_name"]}
        scraped.add(job["job_name"])
    assert scraped == {f"tandem-{process}" for process in PROCESSES}


@pytest.mark.parametrize("folder", ["base", "components/pull-model"])
def test_every_file_is_one_object_and_listed(folder):
    listed = yaml.safe_load((DEPLOY / folder / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
    files = {path.name for path in (DEPLOY / folder).iterdir()} - {"kustomization.yaml"}
    assert files == set(listed)
    for name in files:
        documents = list(yaml.safe_load_all((DEPLOY / folder / name).read_text(encoding="utf-8")))
        assert len(documents) == 1 and documents[0]["kind"], name


def test_compose_is_locked_down_and_connected():
    services = COMPOSE["services"]
    dockerfile = (SOURCE / "docker/Dockerfile").read_text(encoding="utf-8")
    for name, service in services.items():
        assert service["user"] == f"{UID}:{UID}" and service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"], name
        assert service["image"] == f"{service['build']['target']}:{VERSION}", name
        assert f" AS {service['build']['target']}\n" in dockerfile, name
    for entry in CONTAINERS[-len(PROCESSES):]:
        name = entry.where.split()[1]
        for host, port in entry.peers():
            peer = next(other for other in CONTAINERS if other.where == f"compose {host}")
            assert set(services[name]["networks"]) & set(services[host]["networks"]), (name, host)
            assert port == peer.ports()["listen"]
        health = services[name]["healthcheck"]["test"]
        own = entry.ports().get("listen") or entry.ports()["grpc"]
        assert health == ["CMD", "/usr/bin/tandem", "doctor", "--probe=readiness", f"--address=127.0.0.1:{own}"]
        assert int(services[name]["stop_grace_period"].removesuffix("s")) == 45
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published and all(port.startswith("127.0.0.1:") for port in published)


def test_the_images_run_as_the_user_of_the_manifests():
    dockerfile = (SOURCE / "docker/Dockerfile").read_text(encoding="utf-8")
    for stage in ("tandem", "tandem-pull"):
        body = re.search(rf"^FROM \S+ AS {stage}\n(.*?)(?=^FROM|\Z)", dockerfile, re.M | re.S)[1]
        assert f"\nUSER {UID}:{UID}\n" in body and "\nSTOPSIGNAL SIGTERM\n" in body, stage
        assert re.search(r'\nENTRYPOINT \["/usr/bin/tandem"', body), stage
        assert f"ARG VERSION={VERSION}\n" in body, stage
