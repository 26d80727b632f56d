# `make demo` and `make test` do all their own set-up: a virtual environment in .venv, and the package in it.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# the versions that were tested; `make LOCK=` takes the newest that settings.ini allows
LOCK ?= constraints.txt
export NO_ALBUMENTATIONS_UPDATE := 1
export OMP_WAIT_POLICY := PASSIVE
export PYTHONWARNINGS := ignore::DeprecationWarning

# the service's answers have a time limit: nothing else may run beside these
TIMED := tests/serve

.PHONY: demo model test fast coverage quick check lessons setup readme chromium docs docs-links audit

demo: $(READY)
	@echo "set-up took $$(cat $(READY)) s"
	$(BIN)/melanoma demo

# the model that comes with the program, trained again from the images in MELANOMA_DATA
model: $(READY)
	$(BIN)/python benchmarks/model.py

test: $(READY) chromium
	@echo "set-up took $$(cat $(READY)) s"
	@$(MAKE) --no-print-directory check lessons
	$(BIN)/python -m pytest -n 2 --dist loadfile --ignore=$(TIMED)
	$(BIN)/python -m pytest $(TIMED)

# the tests that start no process, train nothing and open no browser
fast: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not browser"

setup: $(READY)

$(READY): settings.ini setup.py pyproject.toml $(LOCK)
	@echo "setting up .venv: about 7 GB, three to four minutes"; start=$$(date +%s); \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")' && \
	$(PYTHON) -m venv .venv && \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(LOCK),-c $(LOCK)) -e '.[dev]' && \
	echo $$(($$(date +%s) - start)) > $(READY)

# the browser tests' browser, where it can be installed; without one they are skipped and say so
chromium:
	@if ! command -v chromium > /dev/null; then \
	if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	echo "installing chromium for the browser tests"; \
	{ apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } > /dev/null 2>&1 || \
	echo "chromium cannot be installed: the browser tests are skipped"; \
	else echo "no chromium: the browser tests are skipped (as root on Debian it is installed)"; fi; fi

# which lines the tests run; tracing them takes a third longer, so not every time
coverage: $(READY) chromium
	$(BIN)/python -m pytest -n 2 --dist loadfile --ignore=$(TIMED) --cov --cov-report=
	$(BIN)/python -m pytest $(TIMED) --cov --cov-append

# seconds: style, the order of the layers, export and clean leave no difference
quick: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check nbs tests benchmarks docs setup.py
	@was=$$(mktemp -d) && cp -r nbs melanoma $$was && \
	PATH="$(CURDIR)/$(BIN):$$PATH" && nbdev_export && nbdev_clean && \
	diff -r -x __pycache__ -x .ipynb_checkpoints $$was/nbs nbs && \
	diff -r -x __pycache__ $$was/melanoma melanoma && rm -r $$was && \
	echo "nbdev_export and nbdev_clean leave no difference"
	@$(BIN)/jupyter nbconvert --log-level ERROR --to markdown --stdout nbs/index.ipynb | diff - README.md && \
	echo "README.md is index.ipynb"
	@$(BIN)/lint-imports --no-cache > /dev/null || $(BIN)/lint-imports --no-cache

# under two minutes, before every commit: the same, types, and the notebooks that were touched
check: quick
	$(BIN)/mypy
	@touched=$$(git diff --name-only --diff-filter=d HEAD -- 'nbs/*/[0-9]*.ipynb' ':!nbs/pipeline' ':!nbs/explore'); \
	for notebook in $$touched; do \
	$(BIN)/nbdev_test --path $$notebook --n_workers 0 || exit 1; done

# every library notebook runs from top to bottom, a process a layer; a crash in C code says where it was
lessons: $(READY)
	@printf '%s\n' data predict train serve model kaggle cli evaluation core run stages stats index.ipynb | \
	PYTHONFAULTHANDLER=1 xargs -P 2 -I {} sh -c \
	'$(BIN)/nbdev_test --path nbs/{} --n_workers 0 --timing || { echo "failed: nbs/{}"; exit 1; }'

readme: $(READY)
	$(BIN)/jupyter nbconvert --log-level ERROR --to markdown --stdout nbs/index.ipynb > README.md

# the documentation in _docs/html: warnings are errors, and so is a link inside it that leads nowhere
docs: $(READY)
	$(BIN)/python docs/stage.py
	$(BIN)/sphinx-build -q -n -W --keep-going -j auto -c docs -d _docs/doctrees _docs/source _docs/html
	$(BIN)/lychee --offline --include-fragments --no-progress '_docs/html/**/*.html'

# the links that lead elsewhere, over the network
docs-links: docs
	$(BIN)/sphinx-build -q -b linkcheck -j auto -c docs -d _docs/doctrees _docs/source _docs/links

# known vulnerabilities of the tested versions, asked over the network; in an environment of its own
audit:
	$(PYTHON) -m venv .venv-audit && .venv-audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	.venv-audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip
