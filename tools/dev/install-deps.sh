#!/bin/sh
# Installs the Debian 12 packages that building, testing and the demo need, and only those that are missing.
# Silent when all are there. When it cannot help: one line that says why, and exit code 1.
set -u
LC_ALL=C
export LC_ALL

# Compilers (g++: cairn.h must compile as C++ too), libraries, the test frame, and what fetches the model and runs the demo.
packages='gcc g++ make pkg-config libc6-dev'
packages="$packages libzmq3-dev libmsgpack-dev libxxhash-dev libdnnl-dev liblmdb-dev liburing-dev libpcre2-dev"
packages="$packages libopenblas-dev liblapacke-dev libjansson-dev check libsubunit-dev"
packages="$packages python3 python3-pip ca-certificates util-linux"

fail()
{
    printf 'cairn: %s\n' "$*" >&2
    exit 1
}

missing_packages()
{
    for package in $packages; do
        case " $(dpkg-query -W -f '${db:Status-Status} ' "$package" 2>/dev/null)" in
        *' installed '*) ;;
        *) printf '%s ' "$package" ;;
        esac
    done
}

# dpkg-query answers for all packages in one go when none is missing: the usual case takes a few milliseconds.
all_installed()
{
    # shellcheck disable=SC2086
    states=$(dpkg-query -W -f '${db:Status-Status}\n' $packages 2>/dev/null) || return 1
    ! printf '%s\n' "$states" | grep -qvx installed
}

as_root()
{
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif [ -t 0 ]; then
        sudo "$@"
    else
        sudo -n "$@"
    fi
}

apt_get()
{
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 \
        -o Acquire::Retries=3 "$@" </dev/null >>"$log" 2>&1
}

# The first error of apt-get's output, without its prefix.
reason()
{
    line=$(grep -m 1 -E '^(E:|sudo:)' "$log" | sed 's/^E: //')
    printf '%s' "${line:-$(tail -n 1 "$log")}"
}

command -v dpkg-query >/dev/null ||
    fail "this is not Debian: install what these packages hold, then use 'make run-check': $packages"
all_installed && exit 0

missing=$(missing_packages)
command -v apt-get >/dev/null || fail "packages are missing and there is no apt-get: $missing"
[ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null ||
    fail "packages are missing, and installing them needs root or sudo: $missing"
[ "$(id -u)" -eq 0 ] || as_root true 2>/dev/null || fail "packages are missing, and sudo refuses: $missing"

log=$(mktemp) || fail "no room for a temporary file in ${TMPDIR:-/tmp}"
trap 'rm -f "$log"' EXIT
trap 'exit 130' INT TERM
printf 'cairn: installing %s\n' "$missing" >&2

# A failing update alone is no reason to give up: one broken foreign source must not stop what is in the others.
apt_get update
# shellcheck disable=SC2086
apt_get install --no-install-recommends $missing || fail "apt-get could not install $missing: $(reason)"
missing=$(missing_packages)
[ -z "$missing" ] || fail "apt-get said yes, but these are still missing: $missing"
