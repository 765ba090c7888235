#!/usr/bin/env bash
# clang-tidy on the sources that differ from a commit: tests/tidy.sh BUILD_DIR BASE
set -euo pipefail
build=$1 base=$2
mapfile -t files < <(git diff --name-only --diff-filter=d "$base" -- '*.cc'; git ls-files --others --exclude-standard '*.cc')
if [ ${#files[@]} -eq 0 ]; then
  echo "clang-tidy: no source differs from $base"
  exit 0
fi
# clang cannot read GCC's precompiled headers, and refuses to where a command names one; no source needs them.
commands=$(mktemp -d)
trap 'rm -rf "$commands"' EXIT
sed -E 's/ -Winvalid-pch//g; s/ -fpch-preprocess//g; s/ -include [^ "]*cmake_pch\.hxx//g' \
  "$build/compile_commands.json" > "$commands/compile_commands.json"
clang-tidy -p "$commands" --quiet "${files[@]}"
