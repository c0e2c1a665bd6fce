# `make help` lists what there is. The work is done by tests/demo, tests/pvesim and gateway/launcher.
PYTHON ?= python3
PORT ?= 39377
ARGS ?=
FULL ?=
FUZZ_SECONDS ?= 60
BIN = .venv/bin
PROGRAMS = build/launcher build/nursery

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name text; do \
	  printf '  make %-14s %s\n' "$$name" "$$text"; done

demo: root packages .venv/installed $(PROGRAMS)  ## start a simulated PVE node and the gateway, run a command (PORT=39377)
	@$(BIN)/python -m tests.demo start --port $(PORT)

demo-stop:  ## end the demo and check that nothing of it is left
	@$(PYTHON) -m tests.demo stop

test: root packages test-packages .venv/installed-dev $(PROGRAMS) .test/promtool .test/nginx .test/caddy clients  ## run the tests on real containers (ARGS="-k name" goes to pytest)
	@$(BIN)/python -m tests.parts $(ARGS)

lint: lint-packages lint-spec .venv/installed-dev  ## check style, types, the API's description and the launcher's C
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) -s -C gateway/launcher lint

bench: root packages .venv/installed-dev $(PROGRAMS)  ## measure against bare lxc-attach, two minutes (FULL=1: A7 and A13 at full size, too)
	@$(BIN)/python -m tests.bench $(ARGS)
	@test -z "$(FULL)" || PVE_EXEC_GATEWAY_TESTS=full $(PYTHON) -m tests.pvesim run --state .test/node --guests test -- $(BIN)/python -m pytest -q tests/exec \
	  -k "test_secrets_are_in_no_command_line" --durations=5
	@test -z "$(FULL)" || $(BIN)/python -m tests.soak --only A13

soak: root packages .venv/installed-dev $(PROGRAMS)  ## what must hold for long: an hour and more (docs/soak.md; ARGS="--loop 20000 --scale 0.1 --only A15")
	@$(BIN)/python -m tests.soak $(ARGS) $(addprefix --python ,$(BIN)/python $(SOAK_PYTHONS))

fuzz: root packages .venv/installed-dev $(PROGRAMS)  ## send 100,000 good and bad requests over the whole spec (docs/fuzzing.md; ARGS="--requests 5000")
	@$(BIN)/python -m tests.fuzz $(ARGS)

chaos: root packages .venv/installed-dev $(PROGRAMS)  ## break disks, processes and clocks under load (docs/fuzzing.md; ARGS="--only spool")
	@$(BIN)/python -m tests.chaos $(ARGS)

launcher: $(PROGRAMS)  ## build the programs in C: the launcher, which runs first in the guest, and the nursery

deb: root packages  ## build the Debian packages into build/deb, install them in a Debian 13, upgrade with commands running
	@$(PYTHON) -m tests.debian --keep build/deb

fuzz-launcher: lint-packages  ## fuzz the launcher's parsers (FUZZ_SECONDS=60 each)
	$(MAKE) -C gateway/launcher fuzz FUZZ_SECONDS=$(FUZZ_SECONDS)

spec: .venv/installed  ## write openapi/openapi.yaml anew
	$(BIN)/pve-exec-gateway openapi > openapi/openapi.yaml

examples: root packages .venv/installed-dev $(PROGRAMS)  ## record the examples of the API's description anew, and write it
	@RECORD_EXAMPLES=1 $(BIN)/python -m tests.pvesim run --state .test/examples --guests demo -- \
	  $(BIN)/python -m pytest -q -s tests/guests/test_examples.py
	@$(MAKE) -s spec

lint-spec: openapi/node_modules/.installed  ## check openapi/openapi.yaml by Redocly's rules
	@node openapi/lint.mjs

clients: build/clients/.generated  ## generate clients in Python, TypeScript and Go into build/clients (docs/clients.md)

vendor:  ## fetch Swagger UI for /docs anew, as gateway/api/docs/swagger-ui/VERSION names it
	@sh gateway/api/docs/swagger-ui/fetch.sh

clean: demo-stop  ## remove all that make made
	rm -rf .venv .demo .test build openapi/node_modules *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache

root:
	@test "$$(id -u)" = 0 || { echo "make: namespaces and containers need root: sudo make $(MAKECMDGOALS)" >&2; exit 1; }

packages:
	@sh tests/demo/install.sh

test-packages:
	@sh tests/demo/install.sh chromium
	@command -v go >/dev/null || sh tests/demo/install.sh golang-go

lint-packages:
	@sh tests/demo/install.sh clang clang-tidy

build/clients/.generated: openapi/openapi.yaml $(wildcard packaging/clients/*) | npm
	@echo "making build/clients"
	@PYTHON=$(PYTHON) sh packaging/clients/generate.sh
	@touch $@

npm:
	@command -v node >/dev/null && command -v npm >/dev/null || sh tests/demo/install.sh nodejs npm

openapi/node_modules/.installed: openapi/package-lock.json | npm
	@npm ci --prefix openapi --silent --no-fund --no-audit --ignore-scripts
	@touch $@

$(PROGRAMS) &: $(wildcard gateway/launcher/*.[ch]) gateway/launcher/Makefile
	$(MAKE) -s -C gateway/launcher

.test/promtool: PACKAGES = promtool prometheus
.test/nginx: PACKAGES = nginx
.test/caddy: PACKAGES = caddy
.test/promtool .test/nginx .test/caddy:
	@sh tests/packaging/unpack.sh $(@F) $(@D) $(PACKAGES)

.venv/installed: EXTRAS =
.venv/installed-dev: EXTRAS = [test,lint]
.venv/installed .venv/installed-dev: pyproject.toml
	@echo "making .venv$(EXTRAS)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.$(EXTRAS)'
	@touch $@ .venv/installed

.PHONY: help demo demo-stop test lint lint-spec bench soak fuzz chaos launcher deb fuzz-launcher spec examples clients vendor clean root packages test-packages lint-packages npm
