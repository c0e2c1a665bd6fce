#!/bin/sh
# Puts a program into a directory, out of the first of these packages that this Debian has, and without installing that, for
# it would start a service: unpack.sh PROGRAM DIRECTORY PACKAGE...
set -eu
program=$1
into=$(mkdir -p "$2" && cd "$2" && pwd)
shift 2
[ ! -x "$into/$program" ] || exit 0
if found=$(command -v "$program"); then
    ln -s "$found" "$into/$program"
    exit 0
fi
away=$(mktemp -d)
trap 'rm -rf "$away"' EXIT
cd "$away"
fetch() {
    for package in "$@"; do
        ! apt-get -qq download "$package" 2>/dev/null || return 0
    done
    return 1
}
fetch "$@" || { apt-get -qq update && fetch "$@"; }
dpkg-deb -x ./*.deb .
install -m 0755 usr/*bin/"$program" "$into/$program"
