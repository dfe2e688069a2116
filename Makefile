# make help lists the targets. ARGS="…" goes to whatever a target runs: make train ARGS="model=cnn data=digits"
SHELL := bash
VENV ?= .venv
ARGS ?=
RUN := $(VENV)/bin/python
DEMO := runs/demo/$(shell date +%Y-%m-%d_%H-%M-%S)

.PHONY: help setup demo train compare sweep report probes play dashboard bench goals notebooks test repro faults soak check clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

setup: $(VENV)/installed ## make .venv and install the package with its tools for development

$(VENV)/installed: pyproject.toml
	python3 -m venv $(VENV)
	$(RUN) -m pip install --quiet -e ".[dev]"
	@touch $@

demo: setup ## train both networks on the bundled digits and print them side by side
	$(RUN) -m vit_cnn.train experiment=demo model=cnn hydra.run.dir=$(DEMO)/cnn $(ARGS)
	$(RUN) -m vit_cnn.train experiment=demo model=vit hydra.run.dir=$(DEMO)/vit $(ARGS)
	$(RUN) -m vit_cnn.compare $(DEMO)/vit $(DEMO)/cnn
	$(RUN) -m vit_cnn.report $(DEMO) --out $(DEMO)/report

train: setup ## train one network: make train ARGS="model=vit data=cifar10"
	$(RUN) -m vit_cnn.train $(ARGS)

compare: setup ## both networks over seeds, and their report; says first how long it takes; YES=1 does not ask
	$(RUN) -m vit_cnn.estimate --train $(if $(YES),--yes) experiment=vit_vs_cnn $(ARGS)

sweep: setup ## the ViT over patch size and dropout, and the report; likewise
	$(RUN) -m vit_cnn.estimate --train $(if $(YES),--yes) experiment=patch_dropout $(ARGS)

report: setup ## a page from runs, and its figures and tables: make report RUNS="runs/a runs/b"
	$(RUN) -m vit_cnn.report $(RUNS) $(ARGS)

probes: setup ## the probes that any runs can be put to: make probes RUNS=runs/demo; folder probes
	for probe in agreement shift patches corruption inside; do $(RUN) -m vit_cnn.probe $$probe $(RUNS) $(ARGS) || exit; done

play: setup ## a page to change images and see what both networks say: make play RUNS=runs/demo
	$(RUN) -m pip install --quiet -e ".[play]"
	$(RUN) -m vit_cnn.play $(RUNS) $(ARGS)

dashboard: setup ## W&B panels that compare the runs, built as code; without a key they are written to a file
	$(RUN) -m vit_cnn.dashboard $(ARGS)

bench: setup ## speed next to timm, vit-pytorch and plain PyTorch, on an idle machine
	$(RUN) -m pip install --quiet -e ".[bench]"
	$(RUN) -m vit_cnn.bench $(ARGS)

goals: setup ## what one GPU should do, measured: make goals ARGS="data=cifar10_lossless"
	$(RUN) -m pip install --quiet -e ".[bench]"
	for goal in cnn_89 vit_77 deck_cnn deck_vit; do $(RUN) -m vit_cnn.bench.goals $$goal $(ARGS) || exit; done

notebooks: setup ## open the notebooks in JupyterLab
	$(RUN) -m pip install --quiet -e ".[notebooks]"
	$(VENV)/bin/jupyter lab notebooks

test: setup ## run the tests, on every core
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto --dist worksteal $(ARGS)

repro: setup ## the same command twice, and once over a kill: the same bits? ARGS="trainer.precision=bf16"
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(RUN) tests/repro.py $(ARGS)

faults: setup ## kill, stop and damage real trainings, resume them, and count what is lost: ARGS="--rounds 3"
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(RUN) -m faults $(ARGS)

soak: setup ## does a long training grow? memory, files, threads and time of a step: ARGS="--minutes 60"
	OMP_NUM_THREADS=1 $(RUN) tests/soak.py $(ARGS)

check: setup ## lint, check the types, and that imports run downwards
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache

clean: ## remove .venv and caches; runs stay
	rm -rf $(VENV) .*_cache *.egg-info
