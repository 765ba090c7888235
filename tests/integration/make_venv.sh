#!/usr/bin/env bash
# make_venv.sh DIR REQUIREMENTS: a Python environment in DIR with the packages of REQUIREMENTS; nothing to do if
# it has them. With TANDEM_OFFLINE=1 nothing is installed: what needs the environment then skips by itself.
set -euo pipefail
venv=$1 requirements=$2
stamp=$venv/installed.sha256
if sha256sum --check --status "$stamp" 2>/dev/null && [[ -x $venv/bin/python ]]; then
  echo "up to date: $venv"
  exit 0
fi
if [[ ${TANDEM_OFFLINE:-0} == 1 ]]; then
  echo "TANDEM_OFFLINE=1: no Python packages installed"
  exit 0
fi
rm -rf "$venv"
python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --retries 5 -r "$requirements"
sha256sum "$requirements" >"$stamp"
