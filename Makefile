# Two commands: `make demo` runs the main job, `make test` runs every check. Both make their own environment.
PYTHON ?= python3
VENV ?= .venv

.PHONY: demo test lint fidelity bench bound hta clean

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
	$(VENV)/bin/codespell sim docs scenarios longruns topologies README.md

fidelity: $(VENV)/.ready-dev
	DRAWS=5000 $(VENV)/bin/pytest --quiet tests/test_fidelity.py

bound: $(VENV)/.ready-dev
	BOUND_DRAWS=5000 $(VENV)/bin/pytest --quiet --numprocesses auto tests/study/test_bound.py

bench: $(VENV)/.ready-dev
	$(VENV)/bin/pytest --quiet --benchmark-enable -p no:randomly tests/benchmarks
	$(VENV)/bin/sim bench engine --report reports/engine

hta: $(VENV)/.ready $(VENV)-hta/.ready
	rm -rf build/hta
	$(VENV)/bin/python tests/hta/write.py build/hta
	$(VENV)-hta/bin/python tests/hta/compare.py build/hta

# In an environment of its own: it fails under pandas 3 on traces of more than 32,767 events.
$(VENV)-hta/.ready:
	$(PYTHON) -m venv $(VENV)-hta
	$(VENV)-hta/bin/pip install --quiet 'HolisticTraceAnalysis==0.5.0' 'pandas<3'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-hta build/hta
