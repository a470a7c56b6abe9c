PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
USABLE := $(VENV)/.usable

# Hundreds of processes of a run of the tests import the same modules: each must not compile them again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help

help: ## show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort

$(READY): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# What a user installs, which is all that the demo needs.
$(USABLE): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[cli,speed]'
	@touch $@

demo: $(USABLE) ## the main job, over real HTTP, against the embedded Basiq
	@$(BIN)/basiq-async demo

ready: $(READY) ## make .venv with all that the tests and checks need

# The tests are dealt out to three processes for two cores, because a third of the time a test waits for something; each
# has its own run of neighbours, so that what a module sets up is used.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(3 * (os.cpu_count() or 2) // 2)')
PYTEST := -m pytest --numprocesses $(WORKERS) --dist worksteal

TESTS ?= tests
LOOP ?= patient

test: $(READY) ## the whole test suite in random order; TESTS=tests/receiver for a part, WORKERS=0 for one process, LOOP=eager or uvloop
	$(BIN)/python $(PYTEST) --loop $(LOOP) $(TESTS)
	$(if $(filter tests,$(TESTS)),$(BIN)/python $(PYTEST) --loop $(LOOP) --basiq-world engine $(ENGINE_SAMPLE))

coverage: $(READY) ## the same, and whether it runs 95 % of the code; measuring takes half as long again
	$(BIN)/coverage erase
	$(BIN)/coverage run $(PYTEST)
	@$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# The public names, the receiver, replays, recoveries, a few simulated worlds and the basics of the command line.
SMOKE := tests/world/test_world.py tests/test_public.py tests/test_errors.py tests/test_filters.py tests/test_models.py \
  tests/signing tests/receiver/test_receiver.py tests/receiver/test_aiohttp.py tests/replay/test_run.py \
  tests/replay/test_recovery.py tests/cli/test_commands.py tests/cli/test_help.py

# What users build on, in the world of the engine that Basiq probably runs: a sample of it is part of `make test`.
ENGINE_ROOMS := tests/receiver tests/replay tests/services tests/cli
ENGINE_SAMPLE := tests/receiver/test_receiver.py tests/receiver/test_deferred.py tests/replay/test_run.py \
  tests/replay/test_outages.py tests/services/test_messages.py tests/services/test_webhooks.py tests/services/test_ensure.py

engine: $(READY) ## the promises of receiver, replay, recovery, doctor and command line in the engine's world; ROOMS=tests/replay for a part
	$(BIN)/python $(PYTEST) --basiq-world engine $(or $(ROOMS),$(ENGINE_ROOMS))

smoke: $(READY) ## the tests of what most users do
	$(BIN)/python $(PYTEST) $(SMOKE)

ROOM ?= receiver
SAMPLE ?= 100
SEED ?= 1

mutants: $(READY) ## change the code of a folder in 100 small ways: do its tests notice? ROOM=replay, SAMPLE, SEED
	$(BIN)/python -m tests.mutants $(ROOM) --sample $(SAMPLE) --seed $(SEED)

stress-tests: $(READY) ## the same for each hard file of docs/maintaining.md: does its own stress test notice? FILE=once.py, SAMPLE, SEED
	$(BIN)/python -m tests.mutants --stress-tests $(FILE) --sample $(SAMPLE) --seed $(SEED)

pages: $(READY) ## the page whose commands take long: the tutorial
	BASIQ_SLOW_PAGES=1 $(BIN)/python -m pytest -p no:randomly tests/docs/test_pages.py -k 'every_block and tutorial'

lint: $(READY) ## ruff, mypy --strict, pyright, the layers of the imports, the workflows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports
	.ci/workflows $(BIN)

format: $(READY) ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

fuzz: $(READY) ## signatures with 20,000 examples each, 7,000 mutated responses, 20,000 pages cut anywhere, 60,000 cursors, 15,000 lines in real shells, 100,000 lists that change while they are read, 1,000 scenarios of deliveries
	BASIQ_FUZZ_EXAMPLES=20000 $(BIN)/python -m pytest -p no:randomly tests/signing/test_signature_properties.py
	BASIQ_FUZZ_EXAMPLES=20000 $(BIN)/python -m pytest -p no:randomly tests/redaction/test_shell.py
	BASIQ_FUZZ_EXAMPLES=100000 $(BIN)/python -m pytest -p no:randomly tests/replay/test_reading.py
	BASIQ_FUZZ_ROUNDS=1000 $(BIN)/python -m pytest -p no:randomly tests/faults/test_fuzz.py tests/faults/test_costs.py tests/testing/fake/test_acceptor.py

WORLDS ?= 200
DAYS ?= 3

world: $(READY) ## 200 simulated worlds: Basiq, a service, its operators, and all that goes wrong; WORLDS, DAYS, FIRST
	$(BIN)/python -m tests.world --seeds $(WORLDS) --days $(DAYS) --first $(or $(FIRST),0)

world-faults: $(READY) ## plant each fault of tests/world/faults.py in a copy: how many worlds are lived until it is found?
	$(BIN)/python -m tests.world --faults --seeds 2000

world-real: $(READY) ## a service in real seconds, on a real PostgreSQL and a real Redis, which are killed; SEEDS, FIRST
	for number in $$(seq $(or $(SEEDS),5)); do for scenario in replay deferred redis; do \
	  $(BIN)/python -m tests.crash --mode receiver --scenario $$scenario --kills 20 --seed $$(($(or $(FIRST),0) + $$number)) || exit 1; done; done

live: $(READY) ## the real API compared with the fake, with reads alone; writes docs/live.md; needs BASIQ_API_KEY
	@if [ -z "$$BASIQ_API_KEY" ]; then echo "make live: nothing was called, BASIQ_API_KEY is not set"; \
	else BASIQ_LIVE=1 $(BIN)/python -m pytest -rP -p no:randomly tests/contract/test_live.py; fi

PEERS := $(VENV)/.peers

$(PEERS): $(READY) benchmarks/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/requirements.txt
	@touch $@

bench: $(PEERS) ## every figure beside its peers; writes benchmarks/results.json and the tables
	$(BIN)/python -m benchmarks.run

bench-quick: $(PEERS) ## the same in under a minute, held against the committed figures
	$(BIN)/python -m benchmarks.run --quick

bench-growth: $(PEERS) ## what a delivery costs an inbox of 10 k to 10 M entries, and while it prunes; writes the table of docs/howto/tune.md
	$(BIN)/python -m benchmarks.inbox_growth

crash: $(READY) ## replays and services that are killed again and again: none lost, and no more repeated than promised
	for mode in inbox http sql; do \
	  $(BIN)/python -m tests.crash --mode $$mode --messages 10000 --concurrency 16 --kills 200 || exit 1; done
	for scenario in replay deferred redis; do \
	  $(BIN)/python -m tests.crash --mode receiver --scenario $$scenario --kills 200 || exit 1; done
	for record in sqlite redis postgres; do \
	  $(BIN)/python -m tests.crash --mode share --record $$record --messages 20000 --kills 60 --lease 2 || exit 1; done

audit: $(READY) ## known vulnerabilities of what a user installs, and bandit; STRICT=1 fails where the database of vulnerabilities cannot be reached
	.ci/audit $(if $(STRICT),--strict) $(BIN)/python

DOCS := $(VENV)/.docs-tools

$(DOCS): $(READY) docs/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement docs/requirements.txt
	@touch $@

docs: $(DOCS) ## the documentation, in docs/_build/html; every warning and every dangling reference is an error
	.ci/docs $(BIN)/python

generated: $(READY) ## write all that is generated: the public interface, the command line's tables, the tables of figures
	$(BIN)/python -m tests.support.api
	$(BIN)/python -m benchmarks.tables
	$(BIN)/python .ci/sbom.py
	BASIQ_SNAPSHOTS=write $(BIN)/python -m pytest -q -p no:randomly tests/cli/test_tables.py

# What builds a release is in an environment of its own: nothing else can change the bytes, and the hashes say which it is.
TOOLS := $(VENV)/dist-tools
BUILDER := $(TOOLS)/.ready

$(BUILDER): .ci/dist-requirements.txt
	$(PYTHON) -m venv --clear $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes --requirement .ci/dist-requirements.txt
	@touch $@

pins: $(BUILDER) ## look for newer versions of the tools that build a release, and write their hashes
	$(TOOLS)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url .ci/dist-requirements.in --output-file .ci/dist-requirements.txt

dist: $(BUILDER) ## build and check the wheel and the sdist: the same bytes each time, and nothing that git does not track
	.ci/dist $(TOOLS)/bin

dist-compare: $(BUILDER) ## build once more, and hold the bytes against what is in dist/
	.ci/dist $(TOOLS)/bin --compare

install-test: $(BUILDER) ## install the wheel of dist/ with each extra, with none, in the lowest versions, and run it
	$(TOOLS)/bin/python .ci/install_test.py

sdist-test: $(BUILDER) ## run the tests of the sdist of dist/ in a fresh environment
	$(TOOLS)/bin/python .ci/install_test.py --only nothing --sdist

tutorial: $(READY) ## the tutorial, literally, in a fresh environment with the wheel of dist/
	.ci/tutorial $(BIN)

changelog: $(READY) ## move the changes of changelog.d into CHANGELOG.md, under [Unreleased]
	$(BIN)/python .ci/changelog.py

release-check: $(READY) ## the checklist of a release; TAG=v0.1.0 for one that is tagged
	$(BIN)/python .ci/release_check.py $(if $(TAG),--tag "$(TAG)")

clean: ## remove what the other targets made
	rm -rf $(VENV) .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis dist docs/_build

.PHONY: help demo ready test engine coverage smoke mutants stress-tests generated pages lint format fuzz crash world world-faults world-real audit bench \
  bench-growth bench-quick live docs pins changelog dist dist-compare install-test sdist-test tutorial release-check clean
