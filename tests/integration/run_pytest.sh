#!/usr/bin/env bash
# run_pytest.sh VENV PYTEST_ARGUMENTS...: exit 77 (ctest: skipped) where TANDEM_OFFLINE=1 left no environment.
set -euo pipefail
venv=$1
shift
if [[ ! -x $venv/bin/python ]]; then
  echo "no Python environment in $venv"
  [[ ${TANDEM_OFFLINE:-0} == 1 ]] && exit 77
  exit 1
fi
export PYTHONDONTWRITEBYTECODE=1
PYTHONPATH=$(dirname "$(realpath "$0")") exec "$venv/bin/python" -m pytest -p harness.plugin -p no:cacheprovider -rs -v \
    --tb=short --color=no --durations=5 "$@"
