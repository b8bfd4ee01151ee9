#!/bin/sh
# The shared library exports exactly what the version script names, and that is exactly what the headers declare.
# usage: check-symbols.sh LIBDIR
set -u
failed=0 dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
sed -n '/global:/,/local:/p' client/cairn.map | grep -o 'cairn_[a-z0-9_]*' | sort >"$dir/map"
nm -D --defined-only "$1/libcairn.so" | awk '$2 ~ /[TDBRVW]/ {sub(/@.*/, "", $3); print $3}' | grep -v '^CAIRN_' | sort >"$dir/exported"
cat client/cairn.h ipc/cairn_status.h ipc/cairn_types.h | tr '\n' ' ' | grep -o 'CAIRN_API [^;]*;' |
    grep -v '__attribute__' |
    sed 's/CAIRN_API [^(]*\(cairn_[a-z0-9_]*\)(.*/\1/' | sort >"$dir/declared"
diff -u "$dir/map" "$dir/exported" >"$dir/diff" || { echo "symbols: cairn.map (-) and the library (+) differ"; cat "$dir/diff"; failed=1; }
diff -u "$dir/declared" "$dir/map" >"$dir/diff" || { echo "symbols: headers (-) and cairn.map (+) differ"; cat "$dir/diff"; failed=1; }
exit $failed
