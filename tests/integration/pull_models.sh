#!/usr/bin/env bash
# pull_models.sh TANDEM NAME...: the models that tests need, into the user's cache. With TANDEM_OFFLINE=1 a
# model that cannot be had is no failure: the tests that need it skip by themselves.
set -euo pipefail
tandem=$1
shift
for name in "$@"; do
  if ! "$tandem" pull "$name"; then
    [[ ${TANDEM_OFFLINE:-0} == 1 ]] || exit 1
    echo "TANDEM_OFFLINE=1: going on without $name"
  fi
done
