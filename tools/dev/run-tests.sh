#!/bin/sh
# Runs test programs one after the other, each with a time limit, and closes with one line of totals.
# usage: run-tests.sh PROGRAM...   Exit codes of a program: 0 pass, 77 skip (it printed why), anything else: failed.
passed=0 failed=0 skipped=0
for program in "$@"; do
    name=${program##*/tests/}
    start=$(date +%s)
    out=$(timeout -k 10 "${CRN_TEST_LIMIT:-600}" "$program" 2>&1)
    code=$?
    took=$(($(date +%s) - start))
    case $code in
    0)  passed=$((passed + 1)); verdict=ok ;;
    77) skipped=$((skipped + 1)); verdict=skip ;;
    *)  failed=$((failed + 1)); verdict="FAILED ($code)" ;;
    esac
    printf '%-12s %-44s %3ss  %s\n' "$verdict" "$name" "$took" "$(printf '%s\n' "$out" | grep -E '^[0-9]+%: Checks|^SKIP' | tail -n 1)"
    [ "$verdict" = ok ] || printf '%s\n' "$out" | tail -n 40 | sed 's/^/    | /'
done
printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
