#!/usr/bin/env bash
# Runs the fuzz targets of a build folder for SECONDS each: run.sh BUILD SECONDS [TARGET...]
#
# Seeds are made anew; inputs that reach new code are kept in BUILD/corpus and used by the next run. A finding (crash,
# failed check, sanitizer report, leak, more than the limits below) ends the run with 1; its input is in BUILD/findings:
#
#   build/fuzz/bin/gguf_fuzz build/fuzz/findings/gguf-crash-...
set -euo pipefail
build=$(realpath "$1") seconds=$2
shift 2
here=$(dirname "$(realpath "$0")")
targets=("$@")
[[ ${#targets[@]} -gt 0 ]] || targets=(gguf safetensors tokenizer_json chat_template json_requests http)

# Far above what a good input needs, so that only a fault exceeds them; a finding is fixed, never given more room.
limits=(-rss_limit_mb=1024 -malloc_limit_mb=256 -timeout=10)
max_bytes() {
  case $1 in
    gguf) echo 16384 ;;
    http) echo 40000 ;;  # above the limit on headers, 16 KiB
    *) echo 8192 ;;
  esac
}

rm -rf "$build/seeds"
python3 "$here/make_corpus.py" "$build/seeds"
mkdir -p "$build/findings" "$build/fuzz-logs"
export ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1:detect_stack_use_after_return=1 \
       UBSAN_OPTIONS=print_stacktrace=1

run_target() {
  local target=$1 log=$build/fuzz-logs/$1.log
  mkdir -p "$build/corpus/$target"
  local code=0
  "$build/bin/${target}_fuzz" -max_total_time="$seconds" "${limits[@]}" -max_len="$(max_bytes "$target")" \
      -dict="$here/dictionaries/$target.dict" -artifact_prefix="$build/findings/$target-" -print_final_stats=1 \
      "$build/corpus/$target" "$build/seeds/$target" >"$log" 2>&1 || code=$?
  if [[ $code -ne 0 ]]; then
    echo "$target: a finding (exit $code), see $log" >&2
    tail -n 60 "$log" >&2
    return 1
  fi
  awk -v target="$target" '
    /cov: / { for (i = 1; i < NF; i++) { if ($i == "cov:") cov = $(i + 1); if ($i == "ft:") ft = $(i + 1) } }
    /stat::/ { split($1, name, "::"); sub(":", "", name[2]); stat[name[2]] = $2 }
    END { printf "%s: %d inputs, %d a second, %d edges, %d features, %d new inputs kept, %d MB at most\n", target,
                 stat["number_of_executed_units"], stat["average_exec_per_sec"], cov, ft, stat["new_units_added"],
                 stat["peak_rss_mb"] }' "$log"
}

# As many at once as there are processors.
failed=0 running=0 places=$(nproc)
for target in "${targets[@]}"; do
  if ((running == places)); then
    wait -n || failed=1
    running=$((running - 1))
  fi
  run_target "$target" &
  running=$((running + 1))
done
for ((; running > 0; --running)); do wait -n || failed=1; done
exit $failed
