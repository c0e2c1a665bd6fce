#!/bin/sh
# Fetches the files beside this one from the npm registry, as VERSION names them: `make vendor`. Another version: its
# line in VERSION (`npm view swagger-ui-dist dist.integrity`), and the hashes in page.html, which a test tells.
set -eu
cd "$(dirname "$0")"
{ read -r package version && read -r wanted; } <VERSION
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
npm pack --silent --pack-destination "$work" "$package@$version" >/dev/null
found=sha512-$(openssl dgst -sha512 -binary "$work"/*.tgz | base64 -w 0)
[ "$found" = "$wanted" ] || { echo "$package $version is not what VERSION says: $found" >&2; exit 1; }
for file in swagger-ui-bundle.js swagger-ui-bundle.js.LICENSE.txt swagger-ui.css LICENSE NOTICE; do
    tar -xzf "$work"/*.tgz -O "package/$file" >"$file"
done
