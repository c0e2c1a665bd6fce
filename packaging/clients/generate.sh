#!/bin/sh
# Generates the clients into build/clients: python, typescript and go. `make clients`; from the repository's root.
# What it needs of PyPI and npm is pinned beside this, with hashes, and goes there, too.
set -eu
configuration=packaging/clients
into=build/clients
python=$into/.venv
log=$into/generate.log

if ! cmp -s $configuration/requirements.txt $python/requirements.txt; then
    rm -rf $python
    "${PYTHON:-python3}" -m venv $python
    $python/bin/pip install -qq --disable-pip-version-check --require-hashes -r $configuration/requirements.txt
    cp $configuration/requirements.txt $python
fi
mkdir -p $into/typescript
cp $configuration/package.json $into/typescript
if ! cmp -s $configuration/package-lock.json $into/typescript/package-lock.json; then
    cp $configuration/package-lock.json $into/typescript
    npm ci --prefix $into/typescript --silent --no-fund --no-audit --ignore-scripts
fi

rm -rf $into/python $into/go
$python/bin/openapi-generator-cli batch --threads 2 $configuration/python.yaml $configuration/go.yaml >$log 2>&1 || {
    cat $log >&2
    exit 1
}
# What it makes beside the clients is for repositories of their own.
find $into/python -mindepth 1 -maxdepth 1 ! -name pve_exec ! -name pyproject.toml ! -name README.md -exec rm -rf {} +
find $into/go -mindepth 1 ! -name '*.go' -delete
cp $configuration/go.mod $into/go
cp $configuration/typescript.mjs $into/typescript
node $into/typescript/typescript.mjs openapi/openapi.yaml $into/typescript/pve-exec.d.ts
