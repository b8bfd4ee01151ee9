#!/bin/sh
# Each installed header compiles alone as C and as C++; every other header alone as C.
set -u
failed=0 dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
for header in client/cairn.h ipc/cairn_status.h ipc/cairn_types.h; do
    name=${header##*/}
    cp client/cairn.h ipc/cairn_status.h ipc/cairn_types.h "$dir"
    echo "#include <$name>" >"$dir/alone.c"
    cc -std=c11 -Wall -Wextra -Wpedantic -Werror -I"$dir" -fsyntax-only "$dir/alone.c" || { echo "headers: $header fails as C"; failed=1; }
    c++ -x c++ -std=c++11 -Wall -Wextra -Werror -I"$dir" -fsyntax-only "$dir/alone.c" || { echo "headers: $header fails as C++"; failed=1; }
done
# kernels/simd_*.h are bodies that kernels/simd_*.c include once per instruction set
for header in $(git ls-files 'ipc/*.h' 'kernels/*.h' 'client/*.h' 'broker/*.h' 'tools/*.h' 'tools/worker/*.h' | grep -v '^kernels/simd_'); do
    echo "#include \"$header\"" >"$dir/alone.c"
    cc -std=c11 -D_GNU_SOURCE -Wall -Werror -I. -Iipc -isystem tests/cuda_emu/include -fsyntax-only "$dir/alone.c" || { echo "headers: $header fails alone"; failed=1; }
done
exit $failed
