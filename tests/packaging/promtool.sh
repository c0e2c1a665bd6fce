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
apt_download() {
    # Debian 13 has it in a package of its own, Debian 12 in Prometheus'.
    if apt-cache show promtool >/dev/null 2>&1; then apt-get -qq download promtool; else apt-get -qq download prometheus; fi
}
apt_download 2>/dev/null || { apt-get -qq update && apt_download; }
dpkg-deb -x ./*.deb .
install -m 0755 usr/bin/promtool "$into/promtool"
