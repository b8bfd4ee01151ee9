#!/bin/sh
# Checks an installed tree, and builds a program against it with pkg-config: shared as C and as C++, and static; then runs
# them with and without a broker. usage: install.sh STAGE DIR SOCKET [SANITIZER FLAGS]   (STAGE: what `make install` filled)
set -eu
stage=$1 dir=$2 socket=$3 san=${4-}
for file in include/cairn.h include/cairn_status.h include/cairn_types.h lib/libcairn.a lib/libcairn.so \
    lib/pkgconfig/cairn.pc bin/cairn bin/cairnd share/man/man1/cairn.1 share/man/man3/cairn_attach.3 \
    share/bash-completion/completions/cairn share/cairn/family/finder.gguf; do
    [ -e "$stage/$file" ] || { echo "not installed: $file"; exit 1; }
done
PKG_CONFIG_PATH=$stage/lib/pkgconfig
LD_LIBRARY_PATH=$stage/lib
export PKG_CONFIG_PATH LD_LIBRARY_PATH
hello=tests/install/hello.c
# shellcheck disable=SC2086,SC2046
{
    cc -std=c11 -Wall -Wextra -Werror $san $(pkg-config --cflags cairn) $hello -o "$dir/shared" $(pkg-config --libs cairn)
    c++ -x c++ -std=c++17 -Wall -Werror $san $(pkg-config --cflags cairn) $hello -x none -o "$dir/cpp" $(pkg-config --libs cairn)
    cc -std=c11 -Wall $san $(pkg-config --cflags cairn) $hello -o "$dir/static" "$stage/lib/libcairn.a" \
        $(pkg-config --static --libs cairn | sed 's/-lcairn//')
}
# the shared library brings its own dependencies, and none that only other parts of this project have
if ldd "$dir/shared" | grep -E 'dnnl|lmdb|uring|pcre|jansson'; then
    exit 1
fi
code=0
"$dir/shared" "$dir/no-broker.sock" || code=$?
[ "$code" -eq 3 ] || { echo "without a broker: exit code $code, not 3"; exit 1; }
for program in shared cpp static; do
    "$dir/$program" "$socket" || { echo "$program failed"; exit 1; }
done
"$stage/bin/cairn" --socket "$socket" ls --json | grep -q '"label": "hello"'
