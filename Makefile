# Two commands on a fresh machine: `make run` and `make test`. Python, git and make are enough.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One install per state of the pins: the stamp is older than what it was made from, or is remade.
STAMP := $(VENV)/.installed

.PHONY: run test check format parity clean

run: $(STAMP)  ## render examples/shapes.csv with a real worker, and show the pictures
	$(BIN)/imagemill run examples/shapes.csv --out out
	@echo "Open out/contact-sheet.png"

test: $(STAMP)  ## all tests; real Postgres, Valkey and S3 come from wheels
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

check: $(STAMP)  ## lint, types and layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)  ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

parity: $(STAMP)  ## every sampler against diffusers' own pipeline; writes docs/parity.md
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.parity

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	# torch first and pinned: by itself pip would fetch gigabytes of CUDA packages.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(STAMP)

clean:  ## remove what the commands above made
	rm -rf $(VENV) out build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
