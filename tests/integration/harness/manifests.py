"""deploy/ and docker/ as data: rendered overlays, containers, the addresses in their arguments."""

import dataclasses
import functools
import pathlib
import re
import subprocess
import sys

import yaml

from .paths import SOURCE, binary

DEPLOY = SOURCE / "deploy"
OVERLAYS = sorted(path.parent.name for path in DEPLOY.glob("overlays/*/kustomization.yaml"))
COMPOSE = yaml.safe_load((SOURCE / "docker/compose.yaml").read_text(encoding="utf-8"))
PROCESSES = ("gateway", "verifier", "drafter")


@functools.cache
def render(overlay):
    """The objects of an overlay, as `kubectl kustomize` makes them."""
    kubectl = pathlib.Path(sys.prefix, "bin/kubectl")
    result = subprocess.run([kubectl, "kustomize", DEPLOY / "overlays" / overlay], capture_output=True, text=True,
                            timeout=60, check=False)
    assert result.returncode == 0 and not result.stderr, result.stderr
    return list(yaml.safe_load_all(result.stdout))


def of_kind(objects, kind):
    """{name: object}"""
    return {entry["metadata"]["name"]: entry for entry in objects if entry["kind"] == kind}


@dataclasses.dataclass
class Container:
    """One container of an overlay or of the compose file: `program` is a name in build/.../bin."""
    where: str
    program: str
    args: list

    def __str__(self):
        return self.where

    def flag(self, name, default=None):
        """The value of --name=VALUE."""
        values = [arg.split("=", 1)[1] for arg in self.args if arg.startswith(f"--{name}=")]
        assert len(values) <= 1, self.args
        return values[0] if values else default

    def duration(self, name):
        """Seconds of a flag, from --help's default where it is not given. A drafter, which never drains, has none."""
        help_text = subprocess.run([binary(self.program), "--help"], capture_output=True, text=True, timeout=30,
                                   check=True).stdout
        default = re.search(rf"--{name} \S+\s[^\[]*\[([^\]]*)\]", help_text)
        if not default:
            assert f"--{name}" not in help_text, help_text
            return 0
        value = re.fullmatch(r"(\d+)s", self.flag(name, default[1]))
        assert value, (self.where, name)
        return int(value[1])

    def ports(self):
        """{flag: port} that the process listens on."""
        return {name: int(self.flag(name).rsplit(":", 1)[1]) for name in ("http", "grpc", "listen", "metrics")
                if self.flag(name)}

    def peers(self):
        """[(host, port)] that the process dials."""
        return [(host, int(port)) for arg in self.args if arg.startswith(("--verifier=", "--drafter="))
                for host, port in [arg.split("=", 1)[1].rsplit(":", 1)]]


def container_of(where, spec):
    """Of a container in a pod template."""
    assert spec["command"][0].startswith("/usr/bin/"), spec["command"]
    return Container(where, spec["command"][0].removeprefix("/usr/bin/"), spec["args"])


def containers():
    """All containers of the three processes, of every overlay and of the compose file."""
    found = []
    for overlay in OVERLAYS:
        deployments = of_kind(render(overlay), "Deployment")
        assert set(deployments) == {f"tandem-{name}" for name in PROCESSES}
        for name in PROCESSES:
            spec, = deployments[f"tandem-{name}"]["spec"]["template"]["spec"]["containers"]
            found.append(container_of(f"{overlay} {name}", spec))
    for name in PROCESSES:
        spec = COMPOSE["services"][name]
        found.append(Container(f"compose {name}", spec["entrypoint"][0].removeprefix("/usr/bin/"), spec["command"]))
    return found
