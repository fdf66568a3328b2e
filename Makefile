# The two commands: `make book` and `make test`. Each does its own set-up; `make help` lists the rest.

PYTHON ?= python3
PINS   ?= constraints.txt
SCALE  ?= $(or $(EENOTES_SCALE),tiny)
VENV   := .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready
OLDEST := .venv-oldest
COLAB  := .venv-colab

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help setup book test chapter study student pdf slides bench serving lint unit busy colab seconds browser chromium test-oldest pins clean distclean

help:
	@echo 'make book [SCALE=reduced]            execute the chapters that changed, build the pages into _build/html'
	@echo 'make test                            lint, unit tests, chapters through nbmake, the pages in a browser'
	@echo 'make chapter N=2 [SCALE=reduced]     one chapter alone'
	@echo 'make study N=2                       the many-seed study behind a chapter (hours; resumes where it stopped)'
	@echo 'make student                         notebooks for a course, with and without solutions: _build/teaching'
	@echo 'make pdf                             the built pages as one PDF, printed by Chromium and linked on the first page'
	@echo 'make slides [SCALE=reduced]          a deck of slides per chapter: _build/slides'
	@echo 'make bench                           the speed claims, as ratios measured in one run (20 minutes)'
	@echo 'make serving                         the served networks of the page Ship it (CIFAR-10 in EENOTES_DATA)'
	@echo 'make lint | unit | browser           one part of make test'
	@echo 'make busy                            the slowest chapter beside a busy loop on each core (minutes)'
	@echo 'make colab                           every chapter from the wheel, on what Colab has, in .venv-colab (PYTHON=python3.13)'
	@echo 'make seconds                         measure what the chapters take on this idle machine, and tell it everywhere'
	@echo 'make test-oldest                     the unit tests with the oldest versions allowed, in .venv-oldest'
	@echo 'make pins                            write the versions in .venv to constraints.txt'
	@echo 'make clean | distclean               remove what was built | and the caches and environments'
	@echo 'PYTHON=python3.12                    the Python to set up with (at least 3.11)'
	@echo 'PINS=/dev/null                       set up with the newest releases instead of those in constraints.txt'

# ------------------------------------------------------------------------------------------------------------- set-up

setup: $(READY)

# Made again only when the requirements or the pins change.
$(READY): pyproject.toml constraints.txt
	@$(call check-python,$(PYTHON))
	@test -x $(PY) || { echo 'Creating $(VENV)'; $(PYTHON) -m venv $(VENV); }
	@echo 'Installing into $(VENV): minutes the first time, PyTorch is large'
	@$(PY) -m pip install -qq -c $(PINS) -e '.[test]'
	@$(PY) -m ipykernel install --sys-prefix --name eenotes --display-name eenotes > $(VENV)/kernel.log 2>&1 \
		|| { cat $(VENV)/kernel.log; exit 1; }
	@touch $@

define check-python
command -v $(1) > /dev/null || { echo 'No $(1) found: install Python 3.11 or later, or say make PYTHON=/path/to/python' >&2; exit 1; }; \
$(1) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| { echo "$(1) is $$($(1) --version), and at least Python 3.11 is needed: make PYTHON=python3.12" >&2; exit 1; }
endef

# ------------------------------------------------------------------------------------------------------- book and tests

book: $(READY)
	@$(PY) tools/chapters.py book --scale $(SCALE)

# In this order, and one after the other whatever -j says. Always at tiny.
test: $(READY)
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory unit
	@$(MAKE) --no-print-directory book SCALE=tiny
	@$(MAKE) --no-print-directory browser

lint: $(READY)
	@echo '== lint'
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check --exclude '*.ipynb' .
	@$(PY) -m ruff format --check --line-length 88 book/*.ipynb
	@$(PY) -m ruff check --line-length 88 --select E501 book/*.ipynb
	@$(VENV)/bin/lint-imports

# One thread each: as many run side by side as there are cores.
unit: $(READY)
	@echo '== unit tests'
	@EENOTES_SCALE=tiny OMP_NUM_THREADS=1 $(PY) -m pytest -q -n logical --dist loadfile \
		-m 'not executed and not browser and not busy and not colab'

# The slowest chapter, beside a busy loop on each core.
busy: $(READY)
	@$(PY) -m pytest -q -m busy tests/site/test_busy.py

# Twice the whole book, with nothing trained and with everything: ten minutes on a machine with nothing else to do.
seconds: $(READY)
	@$(PY) tools/seconds.py measure

# What looks at the executed chapters and at the built pages.
browser: $(READY) chromium
	@echo '== the built book'
	@$(PY) -m pytest -v -m 'executed or browser'

# Installed from the system's packages where that is allowed; otherwise the browser tests are skipped and say so.
chromium:
	@tools/chromium.sh

chapter: $(READY)
	@test -n '$(N)' || { echo 'Which chapter? For example: make chapter N=2 SCALE=reduced' >&2; exit 2; }
	@$(PY) tools/chapters.py run --scale $(SCALE) --only $(N)

study: $(READY)
	@test -n '$(N)' || { echo 'Which study? For example: make study N=2' >&2; exit 2; }
	@EENOTES_CACHE=$(CURDIR)/_build/cache EENOTES_STEPS=$(CURDIR)/book/steps $(PY) -m eenotes_book study $(N)

student: $(READY)
	@$(PY) tools/teaching.py student

pdf: $(READY) chromium
	@$(PY) tools/printed.py

slides: $(READY)
	@$(PY) tools/teaching.py slides --scale $(SCALE)

bench: $(READY)
	@$(PY) -m benchmarks

serving: $(READY)
	@$(PY) -m benchmarks.serving

# ------------------------------------------------------------------------------------------------------------- versions

test-oldest: $(OLDEST)/.ready
	@EENOTES_SCALE=tiny $(OLDEST)/bin/python -m pytest -q -m 'not executed and not browser and not busy and not colab' -p no:cacheprovider \
		--ignore=tests/site

# What is imitated besides: no repository around, the package from a wheel, no network.
colab: $(COLAB)/.ready
	@EENOTES_SCALE=tiny $(COLAB)/bin/python -m pytest -v -p no:cacheprovider tests/site/test_colab.py

$(COLAB)/.ready: pyproject.toml constraints-colab.txt
	@$(call check-python,$(PYTHON))
	@rm -rf $(COLAB) && $(PYTHON) -m venv $(COLAB)
	@$(COLAB)/bin/python -m pip install -qq -c constraints-colab.txt -e '.[chapters]' 'pytest>=8' 'hypothesis>=6.100' \
		nbclient ipykernel packaging pyyaml 'setuptools>=77'
	@touch $@

$(OLDEST)/.ready: pyproject.toml constraints-oldest.txt
	@$(call check-python,$(PYTHON))
	@rm -rf $(OLDEST) && $(PYTHON) -m venv $(OLDEST)
	@$(OLDEST)/bin/python -m pip install -qq -c constraints-oldest.txt -e '.[chapters]' 'pytest>=8' 'hypothesis>=6.100'
	@touch $@

pins: $(READY)
	@grep '^#' constraints.txt > $(VENV)/pins
	@$(PY) -m pip list --format=freeze --exclude pip --exclude-editable | sed 's/+[^=]*$$//' >> $(VENV)/pins
	@mv $(VENV)/pins constraints.txt && touch $(READY)

clean:
	rm -rf _build/executed _build/failed _build/pages _build/book-src _build/html _build/shots _build/slides _build/teaching

distclean: clean
	rm -rf _build $(VENV) $(OLDEST) $(COLAB) *.egg-info .pytest_cache .ruff_cache .hypothesis
