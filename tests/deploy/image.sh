#!/usr/bin/env bash
# image.sh OUT [BASE]: builds the images of docker/Dockerfile as root, but without a daemon, and runs them: read-only,
# as uid 65532, without capabilities; first `tandem pull`, then the three processes as compose.yaml and deploy/ do.
# BASE: a Debian 12 image that buildah has or can pull; without, one is made with debootstrap. Images stay in buildah's
# store as localhost/tandem and localhost/tandem-pull.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/../.."
out=$1 base=${2:-}
version=$(sed -n 's/^project(tandem VERSION \([0-9.]*\) .*/\1/p' CMakeLists.txt)
revision=$(git rev-parse HEAD)
mkdir -p "$out"
if [[ $(id -u) != 0 ]]; then
  echo "image.sh: building in a chroot needs root" >&2
  exit 1
fi

if [[ -z $base ]]; then
  base=localhost/tandem-base:bookworm
  if ! buildah inspect --type image "$base" >/dev/null 2>&1; then
    rm -rf "$out/base"
    debootstrap --variant=minbase bookworm "$out/base"
    sources=$out/base/etc/apt/sources.list
    mirror=$(awk '$1 == "deb" {print $2; exit}' "$sources")  # debootstrap's own choice, .../debian
    printf 'deb %s %s main\n' "$mirror" bookworm-updates "$mirror-security" bookworm-security >>"$sources"
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$out/base" /
    buildah commit --quiet "$container" "$base"
    buildah rm "$container" >/dev/null
    rm -rf "$out/base"
  fi
fi

# What the compiler cache of this machine has need not be compiled again.
cache=$(ccache --get-config cache_dir)
mkdir -p "$cache"
for target in tandem tandem-pull; do
  buildah bud --isolation chroot --layers --volume "$cache:/root/.cache/ccache" --file docker/Dockerfile \
    --target "$target" --build-arg "BASE=$base" --build-arg "VERSION=$version" --build-arg "REVISION=$revision" \
    --tag "localhost/$target:$version" .
  container=$(buildah from --pull-never "localhost/$target:$version")
  rm -rf "${out:?}/$target"
  cp -a "$(buildah mount "$container")" "$out/$target"
  buildah inspect --type image "localhost/$target:$version" >"$out/$target.json"
  buildah rm "$container" >/dev/null
  # A container's engine lays these there.
  mkdir -p "$out/$target"/{dev,proc,etc}
  : >"$out/$target/etc/hosts"
  : >"$out/$target/etc/resolv.conf"
  echo "image.sh: localhost/$target:$version, $(du -sm "$out/$target" | cut -f1) MB"
done

venv=$out/python
tests/integration/make_venv.sh "$venv" tests/requirements.txt
export TANDEM_IMAGES
TANDEM_IMAGES=$(realpath "$out")
# The first needs the network; the others find their ports free in one of their own.
tests/integration/run_pytest.sh "$venv" tests/deploy/test_image_pull.py
bwrap --cap-add ALL --dev-bind / / --unshare-net -- \
  tests/integration/run_pytest.sh "$venv" tests/deploy/test_image.py
