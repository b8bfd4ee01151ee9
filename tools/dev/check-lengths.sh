#!/bin/sh
# Report, not a limit: functions beyond 60 lines (ask for the reason beyond 100) and lines beyond 140 columns.
set -u
git ls-files 'ipc/*.c' 'kernels/*.c' 'client/*.c' 'broker/*.c' 'tools/*.c' 'tools/worker/*.c' 'tools/profile/*.c' | xargs awk '
FNR == 1 { start = 0 }
/^\{/ { start = FNR; name = before }
/^\}/ { if (start && FNR - start > 60) printf "lengths: %s:%d: %d lines: %s\n", FILENAME, start, FNR - start, name; start = 0 }
length($0) > 140 { printf "lengths: %s:%d: %d columns\n", FILENAME, FNR, length($0) }
{ if ($0 !~ /^[{} ]/) before = $0 }'
exit 0
