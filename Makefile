# Everything a newcomer needs: `make demo` and `make test` set up what is missing and do the rest.
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help demo study test browser lab lint clean .venv

help:  ## list the targets
	@grep -E '^[.a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

.venv: $(BIN)/.ready  ## build the environment, every extra included

$(BIN)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[align,dev]'
	@touch $@

demo: $(BIN)/.ready  ## the main job on the default model, in minutes; leaves results/demo
	$(BIN)/workbench demo

study: $(BIN)/.ready  ## the default study, all test pairs; leaves results/study
	$(BIN)/workbench study

test: $(BIN)/.ready  ## every test, and the notebooks through nbval
	$(BIN)/workbench demo  # once: the tests that need a real model and the notebooks share its store
	$(BIN)/python -m pytest tests -m "not browser"
	@echo "The browser tests are left out here: install chromium and run 'make browser'."
	$(BIN)/python -m pytest -p no:randomly --nbval-lax --nbval-sanitize-with notebooks/nbval_sanitize.cfg notebooks

browser: $(BIN)/.ready  ## the widgets in a real JupyterLab and a headless Chromium
	$(BIN)/python -m pytest tests/browser -p no:randomly

lab: $(BIN)/.ready  ## open JupyterLab on the tutorials
	$(BIN)/jupyter lab notebooks

lint: $(BIN)/.ready  ## style
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

clean:  ## remove the environment and what the commands left here
	rm -rf .venv build dist *.egg-info results
