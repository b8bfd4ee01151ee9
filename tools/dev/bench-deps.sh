#!/bin/sh
# Installs what the benchmarks compare with and draw with: redis-server and fio from Debian, and a virtual environment in
# build/bench/venv with llama.cpp (xllamacpp, prebuilt) and matplotlib. Nothing of it is needed to build or use Cairn.
set -eu
cd "$(dirname "$0")/../.."

fail()
{
    printf 'bench-deps: %s\n' "$*" >&2
    exit 1
}

for tool in redis-server fio; do
    command -v "$tool" >/dev/null && continue
    root=''
    [ "$(id -u)" -eq 0 ] || root='sudo -n'
    # shellcheck disable=SC2086
    $root apt-get -q -y install --no-install-recommends "$tool" >/dev/null || fail "apt-get could not install $tool"
done
mkdir -p build/bench
[ -x build/bench/venv/bin/python ] || python3 -m venv build/bench/venv || fail 'python3 -m venv failed (package python3-venv)'
build/bench/venv/bin/python -m pip install -q --disable-pip-version-check 'xllamacpp==2026.10.11549' 'matplotlib==3.11.2' ||
    fail 'pip could not install xllamacpp and matplotlib'
