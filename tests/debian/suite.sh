#!/bin/sh
# Runs `make test` on a Debian 13 machine with Debian's own Python packages: suite.sh [ARGUMENTS of make]. PyPI gives the
# test tools alone: where one would take another version than Debian's, pip fails.
set -eu
cd "$(dirname "$0")/../.."
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
libraries=$(sed -n 's/^ \(python3-[a-z-]*\) (.*/\1/p' debian/control | sort -u)
# shellcheck disable=SC2086  # one word a package
apt-get -qq -y --no-install-recommends install make python3-venv $libraries >/dev/null
[ -x .venv/bin/python ] || python3 -m venv --system-site-packages .venv
.venv/bin/pip freeze >.venv/debian.txt
PIP_CONSTRAINT="$PWD/.venv/debian.txt" make .venv/installed-dev
.venv/bin/pip list -v | grep -F /usr/lib/python3/
exec make test "$@"
