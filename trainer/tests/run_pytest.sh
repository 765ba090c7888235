#!/usr/bin/env bash
# run_pytest.sh ARGUMENTS...: the trainer's tests with TANDEM_TRAINER_PYTHON, or python3; exit 77 (ctest: skipped) where
# that has no torch, which is too large for the build of the C++ programs.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
python=${TANDEM_TRAINER_PYTHON:-python3}
if ! "$python" -c 'import matplotlib, pytest, safetensors, torch, transformers' 2>/dev/null; then
  echo "skipped: $python has no torch, transformers, safetensors, matplotlib and pytest (TANDEM_TRAINER_PYTHON names another)"
  exit 77
fi
export PYTHONDONTWRITEBYTECODE=1 OMP_WAIT_POLICY=passive PYTHONPATH=$here/..
cd "$here/.."
code=0
"$python" -m pytest -q -rs --tb=short --color=no --durations=5 "$@" || code=$?
# 5: a whole file was skipped, for want of Tandem's programs or of the packages that talk to them.
[[ $code == 5 ]] && exit 77
exit "$code"
