# Every target sets up what it needs: the virtual environment is built once and again when pyproject.toml changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
STAMP := $(VENV)/.stamp
# Processes that run tests: one more than CI has cores, because tests wait for programs. 0: one test after the other.
# Files go in the order of tests/conftest.py: by number of tests, as xdist has it, the longest would come last.
WORKERS ?= 3
# Some images set this variable. With it, each process that a test starts would compile all of p2pd anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help venv demo test bytecode fuzz check docs man dist lock bench clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 8

venv: $(STAMP) ## the virtual environment .venv with p2pd and what its development needs

# uv takes a fifth of pip's CPU, and leaves byte code to `make bytecode`. It does not read pip's configuration: where that
# names another index, pip goes on.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) 'uv>=0.7'
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[dev]' || $(PIP) -e '.[dev]'
	touch $(STAMP)

demo: venv ## a real image from an embedded registry to a swarm of five nodes
	$(BIN)/p2pd demo

test: venv ## all tests; as root on Debian also those with real programs
	$(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder

bytecode: venv # of all tests: processes that begin without it at the same time compile everything, each for itself
	$(BIN)/python -m pytest --collect-only -qq > /dev/null

fuzz: venv ## all tests with Hypothesis, with new examples until ^C, or for FUZZ_S=600; FUZZ=tests/proxy: those alone
	$(BIN)/python -m tests.fuzz $(FUZZ)

check: venv ## ruff, mypy --strict and import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: venv ## docs/protocol.md, docs/metrics.md and docs/*-api.json from the code, docker/kubernetes*.yaml from the chart
	$(BIN)/python -m tests.generated_docs
	$(BIN)/python -m tests.real.manifests

man: venv ## man pages of all commands in build/man, and what completes them in build/completion
	$(BIN)/python -m p2pd.cli.manual build/man
	mkdir -p build/completion
	for shell in bash zsh fish; do $(BIN)/p2pd completion $$shell > build/completion/p2pd.$$shell; done

dist: ## build/dist: an archive to install, and on Debian a package, for the Python that makes them (PYTHON=…)
	packages/build build/dist $(PYTHON)

lock: venv ## requirements.lock, of the newest versions that pyproject.toml lets in
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
		--no-annotate --no-emit-index-url --group build pyproject.toml --output-file requirements.lock
	echo libtorrent | $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate --no-emit-index-url - --output-file requirements-bittorrent.lock

bench: venv ## simulations and measurements: a report with plots in build/bench; BENCH=--largest: 10,000 hosts too
	$(PIP) -e '.[bench]'
	$(BIN)/python -m benchmarks.suite $(BENCH)

clean: ## remove all that the other targets make
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
