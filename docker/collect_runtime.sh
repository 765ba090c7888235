#!/usr/bin/env bash
# collect_runtime.sh BIN DRAFTERS ROOT: in ROOT, a file system with the programs of BIN, the drafters that come with
# them, the shared libraries that they load, and nothing else. Libraries are those of this system's Debian packages.
set -euo pipefail
bin=$1 drafters=$2 root=$3
programs=(tandem tandem-gateway tandem-verifier tandem-drafter)

mkdir -p "$root"/{etc,usr/{bin,lib,lib64,share/tandem},var/lib/dpkg/status.d}
ln -s usr/lib "$root/lib"
ln -s usr/lib64 "$root/lib64"
for program in "${programs[@]}"; do
  install -m 0755 --strip "$bin/$program" "$root/usr/bin/$program"
done
cp -r "$drafters" "$root/usr/share/tandem/drafters"
chmod -R u=rwX,go=rX "$root/usr/share/tandem"

# Which package a library comes from; dpkg knows it by the path before or after the merge of /lib into /usr.
package_of() {
  local path
  path=$(realpath "$1")
  { dpkg-query --search "$path" 2>/dev/null || dpkg-query --search "${path#/usr}"; } | cut -d: -f1 | head -n 1
}

# Loaded by name, with --grpc-reflection (gateway/gateway_process.cc).
reflection=$(ldconfig -p | grep -o '/[^ ]*/libgrpc++_reflection\.so\.1\.51$' | head -n 1)
[[ -n $reflection ]] || { echo "libgrpc++_reflection.so.1.51 is missing" >&2; exit 1; }
libraries=$(for file in "${programs[@]/#/$bin/}" "$reflection"; do ldd "$file"; done; echo "$reflection")
if missing=$(grep 'not found' <<<"$libraries"); then
  echo "libraries are missing: $missing" >&2
  exit 1
fi
packages=()
while read -r library; do
  install -D -m 0755 "$(realpath "$library")" "$root/usr${library#/usr}"
  packages+=("$(package_of "$library")")
done < <(grep -o '/[^ ]*' <<<"$libraries" | sort -u)

# What scanners read to know the packages and their versions, and the licences.
while read -r package; do
  dpkg-query --status "$package" >"$root/var/lib/dpkg/status.d/$package"
  install -D -m 0644 "/usr/share/doc/$package/copyright" "$root/usr/share/doc/$package/copyright"
done < <(printf '%s\n' "${packages[@]}" | sort -u)

cp /etc/os-release "$root/etc/os-release"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
echo 'tandem:x:65532:65532:tandem:/tmp:/nonexistent' >"$root/etc/passwd"
echo 'tandem:x:65532:' >"$root/etc/group"
install -d -m 1777 "$root/tmp"
install -d -m 0755 -o 65532 -g 65532 "$root/models"
