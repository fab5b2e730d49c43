# The few things people do. `make setup` happens by itself; PYTHON=... chooses the interpreter of the environment.
PYTHON ?= $(firstword $(wildcard /usr/bin/python3) python3)
VENV := .venv
BIN := $(VENV)/bin
# What fails on a machine that other tests keep busy is run once more, and listed as RERUN: a rerun is a defect to look into, of the test or of polynix.
PYTEST := $(BIN)/python -m pytest -n auto --dist loadscope --reruns 1
C_SOURCES := $(shell find addrspace ipc -name '*.[ch]' -o -name '*.ld')

.PHONY: all setup build demo test test-fast soak bench readme lint format typecheck clean

all: build

setup: $(VENV)/.installed ## the environment, and the Debian programs that demo and tests run as guests
	@tools/setup_machine.sh guests

$(VENV)/.installed: pyproject.toml $(wildcard setup.py) tools/setup_machine.sh
	@PYTHON="$(PYTHON)" tools/setup_machine.sh environment
	@touch $@ $(VENV)/.built

$(VENV)/.built: $(VENV)/.installed $(C_SOURCES)
	$(BIN)/python -m pip -q install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.lint: $(VENV)/.installed
	$(BIN)/python -m pip -q install --no-build-isolation -e '.[lint]'
	@touch $@

build: $(VENV)/.built ## compile the C parts in place, and the rest to bytecode
	@$(BIN)/python -m compileall -q polynix addrspace ipc kernelproc runner tools

demo: build ## something no other tool shows, in half a minute
	@$(BIN)/python docs/demo.py

test: setup build ## everything that CI runs, apart from lint
	$(PYTEST) tests

test-fast: build ## no guest programs: unit and property tests
	$(PYTEST) tests/unit tests/property

soak: setup build ## long runs: 5000 seeded kills, many rounds of the hostile suite, stress
	POLYNIX_SOAK=1 $(PYTEST) tests -m soak --timeout 7200

bench: setup build ## the table of README.md: microbenchmarks, native and polynix interleaved, peers beside them; proxied channels beside bare zmq
	$(BIN)/python -m polynix.tools.bench
	$(BIN)/python -m polynix.tools.bench_ipc

readme: build ## fill the generated sections of README.md in
	$(BIN)/python -m polynix.tools.readme

lint: $(VENV)/.lint build typecheck ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .

typecheck: $(VENV)/.lint build
	tools/typecheck.sh $(BIN)

format: $(VENV)/.lint
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

clean:
	rm -rf build dist *.egg-info $(VENV) tests/userspace/bin bench-results .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
	find addrspace ipc -name '*.so' -delete
	rm -f addrspace/restricted/stub
