#!/bin/sh
# Puts a program into a directory, out of Debian's package and without installing that, for it would start a service:
# unpack.sh PACKAGE PROGRAM DIRECTORY
set -eu
package=$1 program=$2
into=$(mkdir -p "$3" && cd "$3" && pwd)
[ ! -x "$into/$program" ] || exit 0
if found=$(command -v "$program"); then
    ln -s "$found" "$into/$program"
    exit 0
fi
away=$(mktemp -d)
trap 'rm -rf "$away"' EXIT
cd "$away"
apt-get -qq download "$package" 2>/dev/null || { apt-get -qq update && apt-get -qq download "$package"; }
dpkg-deb -x "$package"_*.deb .
install -m 0755 usr/*bin/"$program" "$into/$program"
