#!/bin/sh
# Runs the benchmarks of a device: programs bench/gpu_* in $CRN_GPU_BENCH, with cairnd from $CRN_BIN. Ends at the first that fails;
# without a device that is the first, with one line that says so.
set -eu
cd "$(dirname "$0")/../.."
python=build/bench/venv/bin/python
[ -x "$python" ] || python=python3

"$CRN_GPU_BENCH/gpu_attach"
"$CRN_GPU_BENCH/gpu_tiers"
"$CRN_GPU_BENCH/gpu_batch"
"$python" tools/dev/bench-gpu.py prefill
