"""The images that tests/deploy/image.sh built, unpacked; and how a program of one runs."""

import json
import os
import pathlib

UID = 65532


def images():
    """The folder with <image>/ and <image>.json; only image.sh runs the tests that ask."""
    return pathlib.Path(os.environ["TANDEM_IMAGES"])


def configuration(image):
    """The image's OCI configuration: User, Entrypoint, Labels, ..."""
    inspected = json.loads((images() / f"{image}.json").read_text(encoding="utf-8"))
    return inspected["OCIv1"]["config"]


def models():
    """The volume `models`, which the user of the images may write."""
    path = images() / "models"
    path.mkdir(exist_ok=True)
    os.chown(path, UID, UID)
    return path


def sandbox(image, command, models_writable=False, resolve=None, network=False):
    """`command` in the image as a locked-down pod runs it: uid 65532, no capability, read-only root, /tmp and /dev/shm
    its own. `resolve`: a folder with hosts and resolv.conf. `network`: with what this machine needs to reach PyPI."""
    root = images() / image
    words = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--no-new-privs",
             "bwrap", "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts",
             "--uid", str(UID), "--gid", str(UID), "--die-with-parent", "--clearenv", "--chdir", "/tmp",
             "--ro-bind", root, "/", "--tmpfs", "/tmp", "--dev", "/dev", "--proc", "/proc",
             "--bind" if models_writable else "--ro-bind", models(), "/models"]
    if resolve:
        for name in ("hosts", "resolv.conf"):
            words += ["--ro-bind", resolve / name, f"/etc/{name}"]
    if network:
        for path in ("/etc/resolv.conf", "/etc/ssl/certs/ca-certificates.crt"):
            words += ["--ro-bind", path, path]
        for name, value in os.environ.items():
            if name.startswith("PIP_") or name.lower().endswith("_proxy"):
                words += ["--setenv", name, value]
    for setting in configuration(image)["Env"]:
        words += ["--setenv", *setting.split("=", 1)]
    return [str(word) for word in (*words, *command)]
