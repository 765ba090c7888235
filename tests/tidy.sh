#!/usr/bin/env bash
# clang-tidy on the sources that differ from a commit: tests/tidy.sh BUILD_DIR BASE
set -euo pipefail
build=$1 base=$2
mapfile -t files < <(git diff --name-only --diff-filter=d "$base" -- '*.cc'; git ls-files --others --exclude-standard '*.cc')
if [ ${#files[@]} -eq 0 ]; then
  echo "clang-tidy: no source differs from $base"
  exit 0
fi
clang-tidy -p "$build" --quiet "${files[@]}"
