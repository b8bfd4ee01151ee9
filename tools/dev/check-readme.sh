#!/bin/sh
# The C code block of the README must be the example that is compiled, to the letter.
# usage: check-readme.sh README EXAMPLE
set -eu
quoted=$(awk '/^```c$/ { on = 1; next } /^```$/ { on = 0 } on' "$1")
if [ "$quoted" != "$(cat "$2")" ]; then
    printf '%s: the C example differs from %s\n' "$1" "$2" >&2
    exit 1
fi
