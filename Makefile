# One definition of each task, for a laptop and for CI. `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
IMAGE ?=
SEED ?= 1
FUZZ_SECONDS ?= 30
TARGETS ?=
MINUTES ?= 60
DEVICES ?= 1000
VENDORS := $(VENV)/vendors

.DEFAULT_GOAL := help
.PHONY: help venv vendors demo test unit check format docs clean lock mosquitto bench bench-quick bench-rollout bench-rollout-quick faults faults-full soak mutants fuzz fuzz-corpus

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

venv: $(VENV)/.installed  ## the environment, from the pinned and hashed requirements

$(VENV)/.installed: requirements.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is missing; on Debian: apt install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is older than 3.11; name a newer one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: the venv module of $(PYTHON) is missing; on Debian: apt install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@echo "installing the pinned packages into $(VENV) ..."
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements.txt
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation --editable . \
		> $(VENV)/editable.log 2>&1 || { cat $(VENV)/editable.log >&2; exit 1; }
	@touch $@

vendors: $(VENDORS)/.installed  ## a vendor's own client for one integration test, in a directory of its own

$(VENDORS)/.installed: requirements-vendors.txt | venv
	@rm -rf $(VENDORS)
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --require-hashes --only-binary=:all: \
		--target $(VENDORS) -r requirements-vendors.txt > $(VENV)/vendors.log 2>&1 || { cat $(VENV)/vendors.log >&2; exit 1; }
	@touch $@

demo: venv  ## 20 simulated devices get a signed image (IMAGE=path takes any file)
	@$(BIN)/python -m ota_bridge demo $(if $(IMAGE),--image "$(IMAGE)")

mosquitto:  ## mosquitto for the tests, where it is missing
	@bash tests/need-mosquitto.sh

test: venv mosquitto vendors bench-quick  ## everything; most tests wait, so some parts run side by side
	@failed=0; for parts in "part-integration part-vendors part-core" "part-updates part-faults"; do \
		$(MAKE) --no-print-directory --keep-going --jobs 3 $$parts || failed=1; done; exit $$failed

UPDATES := $(patsubst %,tests/faults/test_%.py,kills link_faults lossy_link restore soak)
VENDORS_TESTS := $(wildcard $(patsubst %,tests/integration/test_%*.py,alibaba aws mixed tencent thingsboard xively))
part-vendors: TESTS = $(VENDORS_TESTS)
part-integration: TESTS = $(filter-out $(VENDORS_TESTS),$(wildcard tests/integration/test_*.py))
part-updates: TESTS = $(UPDATES)
part-faults: TESTS = $(filter-out $(UPDATES),$(wildcard tests/faults/test_*.py))
part-core: TESTS = tests/unit tests/contract tests/fuzz $(wildcard tests/test_*.py)
part-core: NICE = nice -n 19
part-%:
	@set -o pipefail; $(NICE) $(BIN)/python -m pytest -q $(TESTS) 2>&1 | sed -u 's/^/$* | /'

bench: venv mosquitto  ## what a block costs, beside other servers; writes docs/performance.md (about half an hour)
	@$(BIN)/python bench all

bench-quick: venv mosquitto  ## every stack of the benchmark for a moment: is every block right? (under a minute)
	@$(BIN)/python bench quick

bench-rollout: venv mosquitto  ## what the rollout engine costs, and what holds while it works (about half an hour)
	@$(BIN)/python bench rollout

bench-rollout-quick: venv mosquitto  ## the same for a moment: does everything hold? (a minute or two)
	@$(BIN)/python bench rollout --quick

unit: venv  ## the tests that start no process
	@$(BIN)/python -m pytest -q tests/unit tests/contract

faults: venv mosquitto  ## faults by their seeds, in minutes (SEED=n begins at others)
	@$(MAKE) --no-print-directory --jobs 2 faults-that-wait faults-that-compute

faults-that-wait:
	@$(BIN)/python -m tests.faults run link process --size faults --seed $(SEED)

faults-that-compute:
	@nice -n 19 $(BIN)/python -m tests.faults run power-download power-records power-switch power-five input --size faults --seed $(SEED)

faults-full: venv mosquitto  ## the same for a night; after an interruption it goes on where it was
	@$(BIN)/python -m tests.faults run --size full --seed $(SEED)

soak: venv mosquitto  ## updates without end while all kinds of things fail: does memory grow? (an hour, a third of a core; MINUTES, DEVICES, SEED)
	@$(BIN)/python -m tests.faults soak --minutes $(MINUTES) --devices $(DEVICES) --seed $(SEED)

mutants: venv  ## one thing made wrong at a time: is it caught by the tests that say so? (minutes)
	@$(BIN)/python -m tests.mutants

fuzz: venv  ## coverage-guided fuzzing of every decoder (FUZZ_SECONDS for each, TARGETS="report mqtt" for some)
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip --disable-pip-version-check install --quiet \
		--require-hashes --only-binary=:all: -r requirements-fuzz.txt >$(VENV)/atheris.log 2>&1 || tail -1 $(VENV)/atheris.log >&2
	@$(BIN)/python -m tests.fuzz guided $(TARGETS) --seconds $(FUZZ_SECONDS)

fuzz-corpus: venv  ## write the fuzzers' corpus anew; what they found stays
	@$(BIN)/python -m tests.fuzz corpus

check: venv  ## format, lint, types, import contracts
	@$(BIN)/ruff format --check --quiet . || { echo "make: run 'make format'" >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

format: venv  ## format and fix what can be fixed
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --fix --quiet . || true

docs: venv  ## write the generated parts of docs/ again
	@$(BIN)/python -m tests.generate_docs

lock:  ## resolve requirements.txt again (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--extra dev pyproject.toml --output-file requirements.txt

clean:  ## remove what the tasks made
	rm -rf $(VENV) .demo .faults .fuzz .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
