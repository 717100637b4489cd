# Two commands do everything: `make demo` runs the main job, `make test` runs the tests.
# Both create .venv and install what requirements.lock pins; a second run reuses it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# Tests and demos start hundreds of short processes; without bytecode each would compile the program anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check faults soak bench scale install clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    four real peers learn together on this machine (about a minute after installation)"
	@echo "make test    lint, types and the test suite (7 to 17 minutes on two cores)"
	@echo "make check   lint, types and the layer rules only"
	@echo "make faults  drills on real peers: kills, links, trainers, disk, clock (about 19 minutes)"
	@echo "make soak    the long rows of the tests, and property tests with other examples each time"
	@echo "make bench   benchmarks with their baselines"
	@echo "make scale   a sweep and a population on a Ray cluster of two nodes here (installs Ray in build/)"

$(STAMP): requirements.lock pyproject.toml
	@sh tools/preflight.sh $(PYTHON)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

install: $(STAMP)

demo: $(STAMP)
	$(BIN)/quidnunc demo

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/test_layers.py

test: check
	$(BIN)/pytest -q -n 2 --dist worksteal -m "not faults and not soak"

faults: $(STAMP)
	$(BIN)/pytest -q -m faults --durations=0 --durations-min=1

soak: $(STAMP)
	QUIDNUNC_EXPLORE=1 $(BIN)/pytest -q -n 2 --dist worksteal -m "not faults"

bench: $(STAMP)
	$(BIN)/python bench/run.py

scale: $(STAMP)
	$(BIN)/python tools/scale.py

clean:
	rm -rf $(VENV) build *.egg-info
