#!/bin/bash
# The demo, in two acts. One model reads a handbook and publishes its cache; two siblings, each its own process, use that cache
# instead of reading the handbook themselves; then they read it themselves, for comparison. Then a second handbook comes, and
# the broker's memory holds only one: the first goes to NVMe, is asked again, and comes back; and once more after the broker was
# killed. Everything lives in a private directory and ends with this script. Exits non-zero when a step fails, or when an answer
# of the second act depends on where the cache was; an answer that differs from an own prefill's is shown, and is no failure.
# usage: demo.sh BIN_DIRECTORY
set -u
cd "$(dirname "$0")/../.." || exit 1

readonly bin=${1:?usage: demo.sh BIN_DIRECTORY}
readonly model=${CAIRN_MODELS:-$HOME/.cache/cairn}/SmolLM2-135M-Instruct.Q4_1.gguf
readonly family=share/family handbook=share/demo/handbook.txt
readonly memory=132M # one handbook of 3,000 tokens with its states, not two
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
    "$bin/cairnd" --socket "$socket" --memory "$memory" --nvme "$dir/nvme:512M" --write-through >>"$dir/cairnd.log" 2>&1 &
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

# tier_ask NAME WHAT: finder asks about the first handbook; where its cache was before is noted.
tier_ask()
{
    cairn ls --json >"$dir/tier-$1.entries.json" || fail 'cairn ls'
    say "finder asks about the first handbook: $2"
    ask "tier-$1.jsonl" --adapter "$family/finder.gguf" --context "$handbook" \
        --ask 'Which port does thistle-router listen on?' --no-publish
}

# It answers, and what was durable has come back.
kill_broker()
{
    kill -9 "$broker" && wait "$broker" 2>/dev/null
    start_broker
}

# The second handbook: other words, about as long.
second_handbook()
{
    head -c 12000 share/demo/prose.txt >"$dir/second.txt" || fail 'share/demo/prose.txt'
    ask second.jsonl --label base --context "$dir/second.txt"
}

act_one()
{
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
}

act_two()
{
    tier_ask resident 'its cache is in memory'
    say "base reads a second handbook; memory ($memory) holds one"
    second_handbook
    tier_ask nvme 'part of its cache is on NVMe'
    say 'cairnd is killed, and starts again'
    kill_broker
    tier_ask restart 'all of its cache is on NVMe'
}

show_entry()
{
    local entry
    entry=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["entries"][0]["entry"])' "$dir/entries.json") ||
        fail 'no entry'
    printf '$ cairn show %s\n' "$entry"
    cairn show "$entry" || fail 'cairn show'
}

say 'cairnd starts'
start_broker
store_plans
act_one
show_entry >"$dir/shown"
act_two
say 'done'
echo
# shellcheck disable=SC2086
python3 tools/dev/demo_table.py "$dir" $agents || fail 'the results do not show a shared cache that survives'
echo
cat "$dir/shown"
