#!/usr/bin/env bash
# Fuzzes what the gateway parses itself, one target after the other, each FUZZ_SECONDS long (60).
#
#   scripts/fuzz.sh                  every target of tests/fuzz
#   scripts/fuzz.sh head chunks      these
#
# Starts from tests/fuzz/corpus and from what earlier runs kept in tests/fuzz/target/corpus. An input that breaks a promise
# is written to tests/fuzz/target/found, and the target's name said at the end; the others run all the same.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seconds=${FUZZ_SECONDS:-60}
# Nothing here is unsafe, so no sanitizer: the stable toolchain has none. Coverage it has.
options=(--fuzz-dir tests/fuzz --sanitizer none --codegen-units 16)
# The versions the gateway is built with; cargo adds the few that only the targets have.
cp Cargo.lock tests/fuzz/Cargo.lock
# All at once: they share nearly everything.
cargo fuzz build "${options[@]}"

read -r -a targets <<<"${*:-$(cargo fuzz list --fuzz-dir tests/fuzz | xargs)}"
broken=()
for target in "${targets[@]}"; do
  kept=tests/fuzz/target/corpus/$target
  found=tests/fuzz/target/found
  mkdir -p "$kept" "$found"
  printf '\n%s, %s s\n' "$target" "$seconds"
  cargo fuzz run "${options[@]}" "$target" "$kept" "tests/fuzz/corpus/$target" -- \
    -dict="tests/fuzz/dict/$target.dict" -artifact_prefix="$found/$target-" -max_total_time="$seconds" \
    -timeout=5 -len_control=10 -print_final_stats=1 || broken+=("$target")
done
if [ ${#broken[@]} -gt 0 ]; then
  printf '\nbroken: %s; the inputs are in tests/fuzz/target/found\n' "${broken[*]}" >&2
  exit 1
fi
