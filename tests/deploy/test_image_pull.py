"""The image tandem-pull fills the volume, as the Job and the compose service run it. Run by image.sh."""

import hashlib
import subprocess

from harness.images import UID, configuration, models, sandbox



def test_pull_fills_the_volume_and_finds_it_filled():
    config = configuration("tandem-pull")
    command = [*config["Entrypoint"], *config["Cmd"]]
    assert command == ["/usr/bin/tandem", "pull", "smollm2-135m"]
    for _ in range(2):
        result = subprocess.run(sandbox("tandem-pull", command, models_writable=True, network=True),
                                capture_output=True, text=True, timeout=500, check=False)
        assert result.returncode == 0, result.stderr
        path = models() / result.stdout.strip().removeprefix("/models/")
        assert path.stat().st_uid == UID
        with open(path, "rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest().startswith("b179c9523d0e6a0f")
    assert not result.stderr, "the second time it had to do something"


def test_it_can_write_nowhere_else():
    result = subprocess.run(sandbox("tandem-pull", ["/usr/bin/tandem", "pull", "smollm2-135m"]), capture_output=True,
                            text=True, timeout=60, check=False)
    assert result.returncode == 0, "what is there is found on a read-only volume, too"
    command = ["/usr/bin/python3", "-c", "import os; print(os.getresuid())"]
    result = subprocess.run(sandbox("tandem-pull", command), capture_output=True, text=True, timeout=60, check=False)
    assert result.stdout == f"({UID}, {UID}, {UID})\n", result
    command = ["/usr/bin/python3", "-c", "open('/usr/bin/x', 'w')"]
    result = subprocess.run(sandbox("tandem-pull", command), capture_output=True, text=True, timeout=60, check=False)
    assert "Read-only file system" in result.stderr, result
