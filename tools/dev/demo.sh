#!/bin/bash
# The demo: one model reads a handbook and publishes its cache; two siblings, each its own process, use that cache instead of
# reading the handbook themselves; then they read it themselves, for comparison. Everything lives in a private directory and
# ends with this script. Exits non-zero when a step fails; an answer that differs is shown, and is no failure.
# usage: demo.sh BIN_DIRECTORY
set -u
cd "$(dirname "$0")/../.." || exit 1

readonly bin=${1:?usage: demo.sh BIN_DIRECTORY}
readonly model=${CAIRN_MODELS:-$HOME/.cache/cairn}/SmolLM2-135M-Instruct.Q4_1.gguf
readonly family=share/family handbook=share/demo/handbook.txt
readonly agents='finder clerk'

dir=$(mktemp -d "${TMPDIR:-/tmp}/cairn-demo.XXXXXX") || exit 1
readonly dir socket=$dir/cairn.sock
broker=''

# shellcheck disable=SC2329
finish()
{
    [ -n "$broker" ] && kill "$broker" 2>/dev/null && wait "$broker" 2>/dev/null
    rm -rf "$dir"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

fail()
{
    printf 'demo: %s\n' "$*" >&2
    tail -n 5 "$dir/cairnd.log" 2>/dev/null | sed 's/^/    cairnd: /' >&2
    exit 1
}

say()
{
    printf '%4d s  %s\n' "$SECONDS" "$*"
}

cairn()
{
    "$bin/cairn" --socket "$socket" "$@"
}

# ask OUTPUT OPTIONS...: one worker process, its answers as JSON lines.
ask()
{
    local output=$1
    shift
    timeout 170 "$bin/cairn-worker" --model "$model" --socket "$socket" --json "$@" >"$dir/$output" 2>"$dir/errors" ||
        fail "cairn-worker $*: $(tail -n 1 "$dir/errors") $(grep -o '"error":.*' "$dir/$output")"
}

start_broker()
{
    "$bin/cairnd" --socket "$socket" --memory 512M >"$dir/cairnd.log" 2>&1 &
    broker=$!
    for ((try = 0; try < 100; try++)); do
        cairn --timeout 1 status >/dev/null 2>&1 && return
        kill -0 "$broker" 2>/dev/null || fail 'cairnd ended at once'
        sleep 0.1
    done
    fail 'cairnd does not answer'
}

store_plans()
{
    for agent in $agents; do
        cairn plan put "$family/plans/base-$agent.json" --producer "$model" --receiver "$model,$family/$agent.gguf" \
            --layers 30 >/dev/null || fail "plan put $agent"
    done
}

say 'cairnd starts'
start_broker
store_plans
say "base reads $handbook ($(wc -w <"$handbook") words) and publishes its cache"
ask base.jsonl --label base --context "$handbook"
for agent in $agents; do
    say "$agent answers three questions with that cache"
    ask "$agent.shared.jsonl" --adapter "$family/$agent.gguf" --requests "share/demo/questions-$agent.jsonl" --batch 3
done
cairn ls --json >"$dir/entries.json" || fail 'cairn ls'
for agent in $agents; do
    say "$agent answers them again, after reading the handbook itself"
    ask "$agent.own.jsonl" --adapter "$family/$agent.gguf" --requests "share/demo/questions-$agent.jsonl" --batch 3 \
        --reuse never --no-publish
done
say 'done'
echo
# shellcheck disable=SC2086
python3 tools/dev/demo_table.py "$dir" $agents || fail 'the results do not show a shared cache'
entry=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["entries"][0]["entry"])' "$dir/entries.json") ||
    fail 'no entry'
echo
printf '$ cairn show %s\n' "$entry"
cairn show "$entry" || fail 'cairn show'
