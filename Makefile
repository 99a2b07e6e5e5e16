# One verb each. `make demo` and `make test` need nothing but Python 3.10 or newer and make: they set up the rest.
SHELL := /bin/bash
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DATA ?= $(PTBXL_ROOT)
RUN ?= runs/streaming
TEACHERS ?= runs/teachers
BUNDLE ?= runs/bundle
NSTDB ?= $(NSTDB_ROOT)
REPORTS ?= runs/reports
COMPARED ?= runs/compare

.PHONY: help setup demo test lint format bench train compare clean

help: ## show these verbs
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(READY) ## prepare .venv with everything

$(READY): pyproject.toml setup.py $(wildcard trainer/kernels/* edge/*/kernels/*) scripts/setup.sh
	PYTHON="$(PYTHON)" VENV="$(VENV)" bash scripts/setup.sh
	@touch $@

demo: setup ## watch ECG become alerts: a broker, the daemon, a few devices, a live view
	$(BIN)/ecg-edge demo

test: setup ## run all tests (tests on real ECG need PTBXL_ROOT)
	$(BIN)/python -m pytest

lint: setup ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## measure this machine: runtimes, limit, what else one would do, the daemon under load (ten minutes)
	$(BIN)/ecg-edge bench --rivals tests/benchmarks/rivals.py

train: setup ## rebuild the shipped bundle: make train DATA=path/to/ptb-xl (resumes when interrupted)
	@test -n "$(DATA)" || { echo "say where PTB-XL is: make train DATA=path/to/ptb-xl"; exit 2; }
	$(BIN)/ecg-trainer cross-validate --data "$(DATA)" --preset resnet1d-wang --out "$(TEACHERS)/resnet1d-wang"
	$(BIN)/ecg-trainer cross-validate --data "$(DATA)" --preset resnet1d-wang-monitor --out "$(TEACHERS)/resnet1d-wang-monitor"
	$(BIN)/ecg-trainer train --data "$(DATA)" --preset streaming-distilled --seed 0 --out "$(RUN)" \
		--soft-labels "$(TEACHERS)/resnet1d-wang/soft_labels.safetensors" "$(TEACHERS)/resnet1d-wang-monitor/soft_labels.safetensors"
	$(BIN)/ecg-export bundle "$(RUN)/best" --out "$(BUNDLE)"
	$(BIN)/ecg-trainer monitor-state --data "$(DATA)" --bundle "$(BUNDLE)"
	$(BIN)/ecg-trainer tune --data "$(DATA)" --bundle "$(BUNDLE)"
	mkdir -p "$(REPORTS)"
	$(BIN)/ecg-trainer evaluate --data "$(DATA)" --bundle "$(BUNDLE)" --mode stream --json > "$(REPORTS)/records.json"
	$(BIN)/ecg-trainer stream-evaluate --data "$(DATA)" --bundle "$(BUNDLE)" $(if $(NSTDB),--nstdb "$(NSTDB)") \
		--plots "$(REPORTS)" --json > "$(REPORTS)/streams.json"
	$(BIN)/ecg-trainer card --bundle "$(BUNDLE)" --evaluation "$(REPORTS)/records.json" \
		--evaluation "$(REPORTS)/streams.json" $(foreach table,$(wildcard $(REPORTS)/study-*.json),--table "$(table)")
	$(BIN)/ecg-export verify "$(BUNDLE)"

compare: setup ## train all presets and put them into one table: make compare DATA=path/to/ptb-xl (resumes)
	@test -n "$(DATA)" || { echo "say where PTB-XL is: make compare DATA=path/to/ptb-xl"; exit 2; }
	$(BIN)/ecg-trainer compare --data "$(DATA)" --out "$(COMPARED)" $(if $(ONLY),--only $(ONLY))

clean: ## remove what the verbs made
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
