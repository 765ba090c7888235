#!/usr/bin/env bash
# bench.sh BIN MODEL: decode, prefill and verify-cost figures of MODEL (a name or a path) with the programs in BIN,
# beside llama.cpp on the same file where that can be had. See bench.py for what is measured and the settings.
set -euo pipefail
exec python3 "$(dirname "$(realpath "$0")")/bench.py" "$@"
