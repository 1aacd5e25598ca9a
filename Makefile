# Two commands on a fresh machine: `make run` and `make test`. Python, git and make are enough.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One install per state of the pins: the stamp is older than what it was made from, or is remade.
STAMP := $(VENV)/.installed

.PHONY: help run test test-fast pythons check format parity independence chaos fuzz hashes audit
.PHONY: site bench clean

run: $(STAMP)  ## render examples/shapes.csv with a real worker, and show the pictures
	$(BIN)/imagemill run examples/shapes.csv --out out
	@echo "Open out/contact-sheet.png"

# Each process starts servers of its own. More of them than cores: half of a test's time is waiting
# for processes, leases and servers.
TEST_PROCESSES ?= $(shell echo $$(( $$(nproc) * 3 / 2 + 1 )))
# Without its compiled files, every one of hundreds of processes would compile our code again.
PYTEST = PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest \
	-n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

test: $(STAMP)  ## all tests; real Postgres, Valkey and S3 come from wheels
	$(PYTEST)

# These wait for nothing, and each process takes seconds to collect them.
test-fast: TEST_PROCESSES = $(shell nproc)
test-fast: $(STAMP)  ## the quick tests of single modules and of models, while you work
	$(PYTEST) -m "not slow and not commands" tests/unit tests/models

pythons: $(STAMP)  ## the control side's tests with every supported CPython on this machine
	$(BIN)/python -m tools.pythons --processes $(TEST_PROCESSES)

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

independence: $(STAMP)  ## one mixed manifest in every order, B and way; writes docs/independence.md
	$(BIN)/python -m benchmarks.independence --output docs/independence.md

# A release's length; give smaller numbers for a quick look.
KILLS ?= 1000
BROKER_LOSSES ?= 100
PG_RESTARTS ?= 50
STORE_DEATHS ?= 50
STALLS ?= 50
SLOW_DISKS ?= 50
CLOCK_JUMPS ?= 50
S3_FAULTS ?= 10000
FREEZES ?= 200
HISTORIES ?= 2000
# The part of the kills and freezes that hits workers with the real engine.
REAL_ENGINE_KILLS ?= 60
REAL_ENGINE_FREEZES ?= 12
SEED ?= 1
# Where many others want the processor, live workers lose leases of 2 s: take longer ones there.
LEASE_SECONDS ?= 2
# A page whose table is written anew: REPORT=docs/reliability.md
REPORT ?=
# The list of all campaigns that this one is added to: RECORD=benchmarks/campaigns.jsonl
RECORD ?=

chaos: $(STAMP)  ## break everything, count what was promised; see docs/reliability.md
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos --kills $(KILLS) \
		--broker-losses $(BROKER_LOSSES) --pg-restarts $(PG_RESTARTS) \
		--store-deaths $(STORE_DEATHS) --stalls $(STALLS) --s3-faults $(S3_FAULTS) \
		--slow-disks $(SLOW_DISKS) --clock-jumps $(CLOCK_JUMPS) \
		--freezes $(FREEZES) --histories $(HISTORIES) --seed $(SEED) --out out/chaos \
		--lease-seconds $(LEASE_SECONDS) \
		--real-engine-kills $(REAL_ENGINE_KILLS) --real-engine-freezes $(REAL_ENGINE_FREEZES) \
		$(if $(REPORT),--report $(REPORT)) $(if $(RECORD),--record $(RECORD))

bench: $(STAMP)  ## the speeds that can be measured here: tables, and JSON in out/bench
	mkdir -p out/bench
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.overhead --out out/bench/overhead.json
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.engine --out out/bench/engine.json
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.kernels --rounds 3 --out out/bench/kernels.json
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.slots speed
	$(BIN)/python -m benchmarks.database
	$(BIN)/python -m benchmarks.submit --json out/bench/submit.json
	$(BIN)/python -m benchmarks.exports --json out/bench/exports.json
	$(BIN)/python -m benchmarks.duplicates --json out/bench/duplicates.json
	$(BIN)/python -m benchmarks.scale --again --seconds 20 --rows 20000 --out out/bench/scale.json
	$(BIN)/python -m benchmarks.peers --rounds 1 --uniform 96 --mixed 100 --different 100 \
		--out out/bench/peers.json

help:  ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 22

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	# torch first and pinned, its build by the machine: see tools/torch_build.py.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		$$($(BIN)/python tools/torch_build.py) torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(STAMP)

site: $(STAMP)  ## the documents as a web site, in site/; needs no network
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

ROWS ?= 200000

fuzz: $(STAMP)  ## hostile manifests through all that `submit` does before it writes
	$(BIN)/python -m tests.fuzz --rows $(ROWS) --seed $(SEED)

hashes: $(STAMP)  ## the SHA-256 of all that the images install, for this platform; see deploy/README.md
	$(BIN)/python -m tools.hashes $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX))

AUDIT := $(VENV)/audit

audit: $(AUDIT)/bin/pip-audit  ## known vulnerabilities in what the images install; needs PyPI
	for file in deploy/hashes/*.txt; do \
		$(AUDIT)/bin/pip-audit --strict --require-hashes --disable-pip --requirement $$file || \
		{ echo "$$file: see above; offline, nothing is said about it" >&2; exit 1; }; \
	done

$(AUDIT)/bin/pip-audit:
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check pip-audit

clean:  ## remove what the commands above made
	rm -rf $(VENV) out build site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
