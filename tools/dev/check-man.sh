#!/bin/sh
# Man pages are well-formed (with groff, when it is there), and every exported function and subcommand has its place in them.
set -u
failed=0
for page in docs/man/*.[137]; do
    if command -v groff >/dev/null; then
        out=$(groff -man -Tascii -ww -z "$page" 2>&1)
        [ -z "$out" ] || { echo "man: $out"; failed=1; }
    fi
done
for name in $(sed -n '/global:/,/local:/p' client/cairn.map | grep -o 'cairn_[a-z0-9_]*'); do
    grep -q "$name" docs/man/*.3 || { echo "man: $name is in no page"; failed=1; }
done
for name in $(sed -n 's/^    {"\([a-z]*\)", crn_cmd_.*/\1/p' tools/cairn.c); do
    grep -qE "^\.(B|BI|BR) \"*$name( |\"|$)" docs/man/cairn.1 || { echo "man: cairn $name is not in cairn.1"; failed=1; }
    grep -qw "$name" share/completions/cairn || { echo "completion: cairn $name is missing"; failed=1; }
done
if command -v shellcheck >/dev/null; then
    shellcheck -S warning tools/dev/*.sh tests/install/*.sh || failed=1
fi
exit $failed
