#!/bin/sh
# The C code block of the README must be the example that is compiled, to the letter, and every link and every source file that it
# names must be there.
# usage: check-readme.sh README EXAMPLE
set -eu
status=0

quoted=$(awk '/^```c$/ { on = 1; next } /^```$/ { on = 0 } on' "$1")
if [ "$quoted" != "$(cat "$2")" ]; then
    printf '%s: the C example differs from %s\n' "$1" "$2" >&2
    status=1
fi

links=$(grep -o '](\([^)#:]*\))' "$1" | sed 's/^](//; s/)$//')
files=$(grep -o '`\(broker\|client\|docs\|ipc\|kernels\|share\|tests\|tools\)/[A-Za-z0-9_./-]*`' "$1" | tr -d '`')
for file in $links $files; do
    if [ ! -e "$file" ]; then
        printf '%s: there is no %s\n' "$1" "$file" >&2
        status=1
    fi
done
exit "$status"
