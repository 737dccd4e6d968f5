# Works on a fresh clone with Python 3.11 or newer and make: every target makes the environment that it needs.
PYTHON ?= python3
VENV ?= .venv
OUT ?= demo
SECONDS ?= 600
PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
EMOTIW = $(VENV)/bin/emotiw
# Two processes, each from one end of the tests: most module fixtures (a finished run, a wheel) are made once, and both end together.
PYTEST = $(VENV)/bin/python -m pytest -q --numprocesses 2 --dist worksteal
# What computes on the device, and so must on every backend; reading files of other frameworks is the same everywhere.
DEVICE_TESTS = tests/models/test_zoo.py tests/models/test_layers.py tests/models/test_grey.py tests/device
# JAX compiles every operation; making each a little faster takes longer than running it.
JAX_PYTEST = KERAS_BACKEND=jax XLA_FLAGS=--xla_backend_optimization_level=0 $(PYTEST)
# Networks that differ from a sibling in one layer's units or order need no second backend; the deepest answer there once, where
# their gradients are taken.
JAX_TESTS = -k "not (caffenet or vgg_cnn_m_1024 or vgg_cnn_m_128 or vgg_cnn_m_2048 or \
	squeezenet_v1_1 or (test_probabilities or test_without_top) and (senet50 or squeezenet or face_vgg) or \
	(test_compiled or test_config or test_mixed or test_one_channel) and senet50)" $(DEVICE_TESTS)
# Another build of PyTorch, such as the CPU one: make test-backends TORCH="torch==2.13.0 --index-url URL"
TORCH ?= torch==2.13.0

define DEMO_SUMMARY
import json, sys
score = {name: json.load(open(f"{sys.argv[1]}/report/{name}/scores.json"))["accuracy"] for name in ("staged", "direct")}
print(f"""
Done. Test accuracy on faces of other persons (chance is 14 %):
  in two stages, large set then small set   {score['staged']:.1%}   {sys.argv[1]}/staged
  on the small set alone                    {score['direct']:.1%}   {sys.argv[1]}/direct
Predictions to look at                      {sys.argv[1]}/report/staged/faces.png
The report: open it in a browser            {sys.argv[1]}/report/staged/report.html
Learning curves                             {sys.argv[1]}/staged/curves.png
A model to serve                            {sys.argv[1]}/savedmodel/1""")
endef
export DEMO_SUMMARY

.DEFAULT_GOAL := help
.PHONY: help demo reproduce test test-all test-backends chaos fuzz lint types docs bench dist clean
.DELETE_ON_ERROR:

help:
	@echo "make demo           train, score, predict and export on generated faces, into $(OUT)/"
	@echo "make test           linter, type checker, all tests but the slow ones"
	@echo "make test-all       the same, then the slow tests, and the zoo and the device layers on JAX"
	@echo "make test-backends  the zoo and the device layers on PyTorch"
	@echo "make chaos          damage, hostile values and kills in every file that is believed, for ten minutes; SECONDS=60 less"
	@echo "make fuzz           mutate files towards new code of every reader of foreign bytes; SECONDS=3600 for an hour in all"
	@echo "make reproduce      train the model that ships again: FER=fer2013.zip VOTES=fer2013new.csv name the data (VOTES_ROWS=rows.csv"
	@echo "                    where neither order nor names tell rows); it goes on where it was stopped"
	@echo "make docs           the documentation as a site, in build/site"
	@echo "make bench          ours beside PyTorch, ONNX Runtime, OpenVINO and stock Keras; BENCH=\"--parts train --write\" chooses"
	@echo "make dist           sdist and wheels, the small one too, in dist/, checked as the package index would"
	@echo "make clean          remove $(VENV) and what tools left behind"

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"emotiw_keras needs Python 3.11 or newer, this is {sys.version.split()[0]}; name another: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing emotiw_keras and what it needs into $(VENV) (once; some minutes)"
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) --editable '.[dev,hub,interlaced,jax,onnx,serve]'
	@touch $@

$(VENV)/.installed-torch: $(VENV)/.installed-test
	$(PIP) $(TORCH)
	@touch $@

$(VENV)/.installed-fuzz: $(VENV)/.installed-test
	$(PIP) --editable '.[fuzz]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(PIP) --editable '.[docs]'
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	$(PIP) $(TORCH)
	$(PIP) --editable '.[bench]'
	@touch $@

demo: $(VENV)/.installed
	$(EMOTIW) fit demo --out $(OUT)/staged
	$(EMOTIW) fit demo-direct --out $(OUT)/direct
	$(EMOTIW) evaluate $(OUT)/staged $(OUT)/direct --out $(OUT)/report
	$(VENV)/bin/python -m emotiw_keras.data.generated small $(OUT)/faces --limit 14
	$(EMOTIW) predict $(OUT)/faces --model $(OUT)/staged --faces whole
	test -d $(OUT)/savedmodel || $(EMOTIW) export $(OUT)/staged $(OUT)/savedmodel
	@$(VENV)/bin/python -c "$$DEMO_SUMMARY" $(OUT)

reproduce: $(VENV)/.installed
	$(if $(FER),,$(error the model that ships is trained on FER-2013: make reproduce FER=fer2013.zip VOTES=fer2013new.csv))
	$(if $(VOTES),,$(error the model that ships is trained on the votes of FER+, too: make reproduce FER=$(FER) VOTES=fer2013new.csv))
	for recipe in fer28-face-vgg-base fer28-face-vgg-large fer28-face-vgg; do \
		$(EMOTIW) fit $$recipe --data fer=$(FER) --out runs/$$recipe || exit; done
	for recipe in fer28-face-vgg-votes-base fer28-face-vgg-votes; do \
		$(EMOTIW) fit $$recipe --data fer=$(FER) --set source.fer.votes=$(VOTES) \
			$(if $(VOTES_ROWS),--set source.fer.votes_rows=$(VOTES_ROWS)) --out runs/$$recipe || exit; done
	$(EMOTIW) pack runs/fer28-face-vgg-votes runs/packed/fer28-face-vgg-votes --data $(FER) --crops 2 --head votes \
		--votes $(VOTES) $(if $(VOTES_ROWS),--votes-rows $(VOTES_ROWS))

lint: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/.installed-test
	$(VENV)/bin/mypy emotiw_keras cli weights

test: lint types
	KERAS_BACKEND=tensorflow $(PYTEST) -m "not slow"

test-all: test
	KERAS_BACKEND=tensorflow $(PYTEST) -m slow
	$(JAX_PYTEST) $(JAX_TESTS)

test-backends: $(VENV)/.installed-torch
	KERAS_BACKEND=torch $(PYTEST) $(DEVICE_TESTS)

chaos: $(VENV)/.installed-test
	$(VENV)/bin/python -m tests.chaos --seconds $(SECONDS)

fuzz: $(VENV)/.installed-fuzz
	$(VENV)/bin/python -m tests.fuzz --seconds $(SECONDS)

# Warnings, dead links among them, are errors.
docs: $(VENV)/.installed-docs
	$(VENV)/bin/python docs/site.py build/docs
	TF_CPP_MIN_LOG_LEVEL=3 $(VENV)/bin/python -m sphinx -q -W --keep-going -b html build/docs build/site
	@echo "the documentation: open build/site/index.html"

bench: $(VENV)/.installed-bench
	$(VENV)/bin/python -m benchmarks $(BENCH)

# Twine lives in an environment of its own: it is no part of developing, and its dependencies are many.
dist: $(VENV)/.installed-test
	rm -rf dist
	$(VENV)/bin/python -m build --outdir dist .
	$(VENV)/bin/python -m build --wheel --outdir dist light
	$(PYTHON) -m venv $(VENV)/twine
	$(VENV)/twine/bin/python -m pip install --quiet --disable-pip-version-check 'twine>=6,<7'
	$(VENV)/twine/bin/twine check --strict dist/*

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
