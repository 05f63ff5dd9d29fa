# Every target sets up what it needs by itself; see .ci/setup. PYTHON=... chooses the interpreter.

VENV_PYTHON = .venv/bin/python

.PHONY: help run test lint bench deb repo clean

help:
	@echo "make run    set up and start the kiosk example (Ctrl-C ends it)"
	@echo "make test   set up and run all tests, linters and type checks included"
	@echo "make lint   set up and run the linters and type checks only"
	@echo "make bench  set up and print the table of measurements"
	@echo "make deb    set up and build the Debian packages, into build/deb"
	@echo "make repo   make a signed apt repository of them, in build/repo"
	@echo "make clean  remove what the others made"

run:
	@.ci/setup run
	@exec $(VENV_PYTHON) examples/kiosk/run.py $(ARGS)

test:
	@.ci/setup test
	@exec $(VENV_PYTHON) -m tests.all $(ARGS)

lint:
	@.ci/setup test
	@exec $(VENV_PYTHON) -m pytest tests/test_linters.py $(ARGS)

bench:
	@exec bench/run $(ARGS)

deb:
	@.ci/setup deb
	@exec packaging/build-deb $(ARGS)

repo: deb
	@exec packaging/make-repo

clean:
	rm -rf .venv .venv-bench build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
