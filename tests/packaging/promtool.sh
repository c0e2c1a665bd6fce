#!/bin/sh
# Puts Prometheus' promtool into the directory given: out of Debian's package, without installing its service.
set -eu
into=$(mkdir -p "$1" && cd "$1" && pwd)
[ ! -x "$into/promtool" ] || exit 0
if found=$(command -v promtool); then
    ln -s "$found" "$into/promtool"
    exit 0
fi
away=$(mktemp -d)
trap 'rm -rf "$away"' EXIT
cd "$away"
apt-get -qq download prometheus 2>/dev/null || { apt-get -qq update && apt-get -qq download prometheus; }
dpkg-deb -x prometheus_*.deb .
install -m 0755 usr/bin/promtool "$into/promtool"
