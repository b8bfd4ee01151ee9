#!/bin/sh
# Installs what the benchmarks compare with and draw with: redis-server and fio from Debian, and a virtual environment in
# build/bench/venv with llama.cpp (xllamacpp, prebuilt), Mooncake and matplotlib. NATIVE=1: also builds llama.cpp for this machine, in
# build/bench/venv-native (llama-cpp-python from source: 10 minutes or more). GPU=1: also PyTorch and transformers for make bench-gpu, in
# build/bench/venv-gpu (some GB). Nothing of it is needed to build or use Cairn.
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
build/bench/venv/bin/python -m pip install -q --disable-pip-version-check 'mooncake-transfer-engine-non-cuda==0.3.13.post1' ||
    echo 'bench-deps: pip could not install Mooncake; its rows will be missing'

if [ "${GPU:-0}" = 1 ]; then
    [ -x build/bench/venv-gpu/bin/python ] || python3 -m venv build/bench/venv-gpu || fail 'python3 -m venv failed (package python3-venv)'
    build/bench/venv-gpu/bin/python -m pip install -q --disable-pip-version-check -r tools/dev/bench-gpu-requirements.txt ||
        fail 'pip could not install torch and transformers'
fi

[ "${NATIVE:-0}" = 1 ] || exit 0
native=build/bench/venv-native
if [ ! -x "$native/bin/python" ]; then
    python3 -m venv "$native.new" || fail 'python3 -m venv failed (package python3-venv)'
    CMAKE_ARGS='-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF' "$native.new/bin/python" -m pip install -q --disable-pip-version-check \
        --no-binary llama-cpp-python 'llama-cpp-python' || fail 'pip could not build llama-cpp-python'
    mv "$native.new" "$native" # only a complete one is there
fi
