# The two commands of the README. Each creates .venv and installs what it needs. They
# require only Python 3.11 or newer, with its venv module, and make.

PYTHON ?= python3
# The scripts in launch/ and benchmarks/ have a variable of this name, for another purpose.
unexport PYTHON
VENV ?= .venv
# constraints-newest.txt is for Python 3.13.
CONSTRAINTS ?= constraints.txt
# The files that `make test` runs; all by default.
TESTS ?=
WORKDIR ?= runs/quickstart
# Two workers, as CI has two cores; each takes whole modules, whose fixtures it compiles
# once, and up to 4 GB of memory. `make test PARALLEL=` runs all in one process.
PARALLEL ?= -n 2 --dist loadscope --no-loadscope-reorder
READY := $(VENV)/.ready

# glibc returns large arrays to the system after each step and requests them again. Huge
# pages reduce the time of a step on a CPU by a third.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: quickstart test test-all lint docs

quickstart: $(READY)
	$(VENV)/bin/python -m arniqa_jax.main --config=quickstart \
	  --workdir=$(WORKDIR)

test: $(READY)
	$(VENV)/bin/python -m pytest $(PARALLEL) $(TESTS)

# Every test, also those marked slow.
test-all: $(READY)
	$(VENV)/bin/python -m pytest $(PARALLEL) -m ""

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/shellcheck launch/*.sh benchmarks/*.sh .ci/run .ci/wheel

# The documentation, into docs/_build/html. Warnings are errors.
docs: $(VENV)/.docs
	$(VENV)/bin/python -m sphinx -W --keep-going --quiet -b html docs docs/_build/html

$(VENV)/.docs: $(READY)
	$(VENV)/bin/python -m pip install --quiet --editable '.[docs]' \
	  --constraint $(CONSTRAINTS)
	touch $@

$(READY): setup.cfg pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[test]' \
	  --constraint $(CONSTRAINTS)
	touch $@
