#!/bin/sh
# Installs what the launcher's build, the virtual environment and the simulated node need of Debian's packages, and
# the packages given: those alone that are missing, with apt's lists renewed only when they do not have one.
set -eu

fail() {
    echo "make: $1" >&2
    exit 1
}

install_missing() {
    missing=
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing="$missing $package"
    done
    [ "$missing" ] || return 0
    [ "$(id -u)" = 0 ] || fail "as root: apt-get install$missing"
    echo "installing$missing"
    # shellcheck disable=SC2086  # one word a package
    apt_install $missing 2>/dev/null || { apt-get -qq update && apt_install $missing; } || fail "cannot install$missing"
}

apt_install() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" </dev/null >/dev/null
}

command -v dpkg-query >/dev/null || fail "needs Debian 12 or 13 (there is no dpkg here)"
install_missing ca-certificates curl e2fsprogs gcc libc6-dev lxc-dev musl-tools python3 python3-venv "$@"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "needs Python 3.11 or later as python3"
# shellcheck disable=SC2046  # one word a package
install_missing $(python3 -m tests.pvesim packages)
