#!/bin/sh
# Calls that are not used here (bounds, global state, sleeping instead of waiting), ends of a host process in library code,
# and notes without an issue.
set -u
failed=0
find_in() { # what, pattern, files...
    what=$1 pattern=$2
    shift 2
    found=$(git grep -nE "$pattern" -- "$@" | grep -vE '^[^:]*:[0-9]*: *(/\*|\*|//)') && { echo "$found" | sed "s/^/banned ($what): /"; failed=1; }
}
word='(^|[^a-zA-Z0-9_."])'
find_in call "$word(strcpy|strcat|sprintf|vsprintf|strncpy|strncat|atoi|atol|atof|gets|system|signal|alloca|tmpnam|strtok)\(" \
    '*.c' '*.h' '*.cu'
find_in sleep "$word(sleep|usleep|nanosleep|clock_nanosleep)\(" '*.c' '*.h'
find_in exit "$word(exit|_exit|abort|assert)\(" 'ipc/*.c' 'client/*.c' 'kernels/*.c'
find_in note '(TODO|FIXME|XXX:)([^(]|\([^#])' '*.c' '*.h' '*.sh' Makefile ':!tools/dev/check-banned.sh'
find_in pragma '#pragma GCC diagnostic' '*.c' '*.h'
exit $failed
