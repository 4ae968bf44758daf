# The first four work as the very first command in a fresh clone: each sets up .venv by itself.
PYTHON ?= python3
BIN := .venv/bin
AXE := axe-core@4.14.1
LINT := ruff check && ruff format --check && lint-imports --no-logo --no-cache
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: setup demo lab test quick notebooks course site bench

setup: .venv/ready ## the environment, with the versions that are tested
demo: .venv/ready ## grade a made-up class through nbgrader
	@autograder demo
lab: .venv/ready ## JupyterLab on your own copies of the notebooks
	@autograder work
	@JUPYTER_CONFIG_PATH="$(CURDIR)/course/lab" jupyter lab --allow-root --log-level=WARN --ServerApp.root_dir="$(CURDIR)"
test: .venv/ready ## lint, formatting, imports, and all tests; UNIT=05: what is about one unit
	@$(LINT) && pytest $(if $(UNIT),--unit $(UNIT))
quick: .venv/ready ## the same without classes under attack, runs of notebooks, and a third seed
	@$(LINT) && pytest --quick
notebooks: .venv/ready ## run every notebook in its fast setting, and record that it ran
	@autograder verify
course: .venv/ready ## lessons -> solutions/ -> notebooks/
	@autograder build
site: .venv/ready ## the course as a site, in site/; SOLUTIONS=1: with solutions, in site-solutions/
	@autograder site $(if $(SOLUTIONS),--solutions)
bench: .venv/ready ## measurements, side by side
	@for script in benchmarks/*.py; do echo "== $$script"; python $$script || exit 1; done

.venv/ready: pyproject.toml constraints.txt
	@echo "Setting up .venv: a few minutes and a few GB, the first time only."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@npm install --silent --no-audit --no-fund --prefix .venv/axe $(AXE) 2> /dev/null || echo "No npm: whether everybody can read the site is not tested."
	@touch $@
