# Two commands: `make demo` runs the main job, `make test` runs every check. Both make their own environment.
PYTHON ?= python3
VENV ?= .venv

.PHONY: demo test lint fidelity bound bench clean

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/.ready
	$(VENV)/bin/sim compare scenarios/llama2-70b_128xh100_layouts.yaml --report reports/llama2-70b_128xh100_layouts

test: lint
	$(VENV)/bin/pytest --quiet --numprocesses auto

lint: $(VENV)/.ready-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/codespell sim docs scenarios topologies README.md

fidelity: $(VENV)/.ready-dev
	DRAWS=5000 $(VENV)/bin/pytest --quiet tests/test_fidelity.py

bound: $(VENV)/.ready-dev
	BOUND_DRAWS=5000 $(VENV)/bin/pytest --quiet --numprocesses auto tests/study/test_bound.py

bench: $(VENV)/.ready-dev
	$(VENV)/bin/pytest --quiet --benchmark-enable -p no:randomly tests/benchmarks
	$(VENV)/bin/sim bench engine --report reports/engine

clean:
	rm -rf $(VENV)
