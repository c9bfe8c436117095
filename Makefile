# Two commands do everything: `make demo` and `make test`. `make chaos` takes minutes.

PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO_INSTALLED := $(VENV)/.installed-demo
CLIENTS := tests/clients
NPM_INSTALLED := $(CLIENTS)/node_modules/.installed

export HOST PORT

.PHONY: demo test lint types pytest coverage mutations messages chaos fuzz install requirements docs bench bench-publish bench-returning bench-arriving

install: $(INSTALLED) $(NPM_INSTALLED)

# The first part of the requirements: a newcomer sees the demo without waiting for browsers and servers.
$(DEMO_INSTALLED): requirements.txt
	$(PYTHON) -m venv $(VENV)
	sed '/^# Only for the tests/,$$d' requirements.txt | \
	    $(BIN)/pip install --quiet --disable-pip-version-check --requirement /dev/stdin
	touch $@

$(INSTALLED): $(DEMO_INSTALLED)
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.txt
	touch $@

# For older versions of pip, which know no dependency groups.
requirements:
	$(PYTHON) -m tests.requirements > requirements.new
	mv requirements.new requirements.txt

# Only the tests need it; Node comes with the Python packages.
$(NPM_INSTALLED): $(CLIENTS)/package-lock.json $(INSTALLED)
	$(BIN)/npm --prefix $(CLIENTS) ci --silent
	touch $@

# The simulator runs beside the server and ends with it.
demo: export DEBUG := 1
demo: $(DEMO_INSTALLED)
	$(BIN)/python manage.py migrate --verbosity 0
	$(BIN)/python manage.py demo_data
	@$(BIN)/python manage.py demo_simulate & simulator=$$!; \
	trap 'kill $$simulator 2>/dev/null; wait $$simulator 2>/dev/null' EXIT INT TERM; \
	$(BIN)/python manage.py demo_serve

test: lint types docs pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

# Much of a test is waiting, so that two cores have work for three.
WORKERS ?= 3

pytest: $(INSTALLED) $(NPM_INSTALLED)
	$(BIN)/python -m pytest -m alone
	$(BIN)/python -m pytest -m "not alone" --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

# Which lines and branches of the app no test runs, also in the servers that the tests start.
# Measured, processes are larger and slower: what fails for that is told, and not the end.
coverage: $(INSTALLED) $(NPM_INSTALLED)
	$(BIN)/coverage erase
	-$(BIN)/coverage run -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(TESTS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report
	$(BIN)/coverage html --quiet

# Takes out each answer of the code to a trap, one at a time: a test must fail without it.
# `make mutations ONLY=presence` does those that have the word.
ONLY ?=

mutations: $(INSTALLED) $(NPM_INSTALLED)
	$(BIN)/python -m tests.mutations $(ONLY)

# The texts that can be translated, for sse_app/locale; needs Debian's gettext.
messages: $(INSTALLED)
	cd sse_app && ../$(BIN)/django-admin makemessages --locale en --no-wrap --no-obsolete --no-location

# The documentation as a site, in build/docs/. A broken link or a broken docstring is an error.
DOCS := $(VENV)/.installed-docs

$(DOCS): docs/requirements.txt $(INSTALLED)
	$(BIN)/pip install --quiet --disable-pip-version-check \
	    --requirement requirements.txt --requirement docs/requirements.txt
	touch $@

docs: $(DOCS)
	$(BIN)/sphinx-build --quiet --fresh-env --fail-on-warning --keep-going --nitpicky docs build/docs
	@echo "The site is build/docs/index.html."

# Figures of this machine; nothing here fails for being slow. `make bench BENCH=--quick` takes minutes.
BENCH ?=
RIVALS := $(VENV)/.installed-rivals

$(RIVALS): benchmarks/requirements.txt $(INSTALLED)
	$(BIN)/pip install --quiet --disable-pip-version-check \
	    --requirement requirements.txt --requirement benchmarks/requirements.txt
	touch $@

bench: $(RIVALS)
	$(BIN)/python -m benchmarks.fanout $(BENCH)

bench-publish: $(INSTALLED)
	$(BIN)/python -m benchmarks.publish

bench-returning: $(INSTALLED)
	$(BIN)/python -m benchmarks.returning

bench-arriving: $(INSTALLED)
	$(BIN)/python -m benchmarks.arriving

# Kills and restarts at random while clients listen; one table at the end.
KILLS ?= 100
RESTARTS ?= 20

chaos: $(INSTALLED)
	$(BIN)/python -m tests.chaos --kills $(KILLS) --restarts $(RESTARTS) $(if $(SEED),--seed $(SEED))

# Looks for what the logs and the hub can't survive: random runs, twice as long as in the tests.
EXAMPLES ?= 2000
LOG ?=

fuzz: $(INSTALLED)
	FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest tests/test_stateful.py $(if $(LOG),-k $(LOG))
