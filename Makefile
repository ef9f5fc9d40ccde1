# make reproduce [PROFILE=smoke|laptop|gpu|paper] and make test are all a reader needs; `make help` lists the rest.

PROFILE ?= laptop
PYTHON ?= python3
BLENDER_PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
# A changed pyproject.toml or lock gives the stamp another name, and only then is anything installed again.
STAMP := $(VENV)/.installed-$(shell cat pyproject.toml requirements.lock | cksum | cut -d' ' -f1)
BLENDER_STAMP := .venv-blender/.installed-$(shell cksum < requirements-blender.lock | cut -d' ' -f1)

# What was downloaded is enough for the tests, and no window opens. Files of tests run side by side, a thread each.
TEST_ENVIRONMENT := OMP_NUM_THREADS=1 MPLBACKEND=Agg PYVISTA_OFF_SCREEN=true HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1

.DEFAULT_GOAL := help
.PHONY: help setup reproduce plan summary book test cluster-test fuzz lab labs grade lab-data lint format blender bench lock

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## make .venv and install everything in the versions of requirements.lock

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'Python 3.11 or newer is needed, and $(PYTHON) is not. Name one: make $(MAKECMDGOALS) PYTHON=python3.12' >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo 'The venv module of $(PYTHON) is missing; on Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	$(BIN)/python -m pip install --disable-pip-version-check -c requirements.lock -e '.[dev]'
	@rm -f $(VENV)/.installed-*
	@touch $@

# Snakemake's lock would outlive a kill -9; results are renamed into place when whole, so nothing needs it.
reproduce: $(STAMP) ## run every notebook at PROFILE; a second call does only what is out of date
	$(BIN)/snakemake --snakefile workflow/Snakefile --config profile=$(PROFILE) --cores all \
	  --scheduler greedy --nolock --rerun-incomplete --quiet host

plan: $(STAMP) ## print what every notebook and every job of a cluster would take at PROFILE (make plan PROFILE=paper)
	$(BIN)/python -m vfusion3d.book.run notebooks/*.ipynb --profile $(PROFILE) --dry-run
	$(BIN)/python -m vfusion3d.book.jobs --profile $(PROFILE)

summary: $(STAMP) ## write papermill_runs/PROFILE/index.html: all tables and figures at once (reproduce does so too)
	$(BIN)/python -m vfusion3d.book.summary --profile $(PROFILE)

book: $(STAMP) ## write _book/html/index.html: notebooks, tables, glossary and docstrings as one book that opens from the disk
	PROFILE=$(PROFILE) $(BIN)/sphinx-build -q -j auto docs _book/html

test: $(STAMP) ## run the tests, among them every notebook at the smoke profile
	$(TEST_ENVIRONMENT) $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

fuzz: $(STAMP) ## try other inputs on every reader of files, MINUTES=10 each
	$(TEST_ENVIRONMENT) $(BIN)/python benchmarks/fuzz.py --minutes $(or $(MINUTES),10)

cluster-test: $(STAMP) ## run the workflow on a SLURM of two nodes that is started here (Debian, as root)
	$(BIN)/python workflow/cluster_test.py

lab: $(STAMP) ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks

labs: $(STAMP) ## write labs/student/ (exercises with holes) and labs/solutions/ from labs/source/
	$(BIN)/python labs/labs.py make

grade: $(STAMP) ## mark what students handed in: make grade SUBMISSIONS=folder (a folder for each student)
	$(BIN)/python labs/labs.py grade --submissions "$(SUBMISSIONS)"

lab-data: $(STAMP) ## write labs/data/, what lab 3 compares
	$(BIN)/python labs/labs.py data --run-dir runs/$(PROFILE)

lint: $(STAMP) ## check style and common errors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## rewrite the sources in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

blender: $(BLENDER_STAMP) ## make .venv-blender with Blender Cycles (Python 3.11, a renderer beside PyVista)

$(BLENDER_STAMP):
	@$(BLENDER_PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
	  echo 'Blender needs Python 3.11 exactly. Name one: make blender BLENDER_PYTHON=...' >&2; exit 1; }
	@test -x .venv-blender/bin/python || $(BLENDER_PYTHON) -m venv .venv-blender
	.venv-blender/bin/python -m pip install --disable-pip-version-check -r requirements-blender.lock
	@rm -f .venv-blender/.installed-*
	@touch $@

bench: $(STAMP) ## time rendering, and inference beside its slow twin
	$(BIN)/python benchmarks/rendering.py
	$(BIN)/python benchmarks/inference.py

lock: ## renew requirements*.lock from pyproject.toml, keeping the versions that still fit
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/python workflow/lock.py
