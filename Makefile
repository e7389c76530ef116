# `make demo` makes a trained, evaluated and explained tagger from synthetic mp3 files.
# `make test` runs the default test suite.
# `make docs` builds the documentation into docs/_build/html.
# `make benchmark` times what users do: the first table of docs/facts.md.

PYTHON = .venv/bin/python
DEMO = demo
EPOCHS = 6

demo: .venv/installed
	$(PYTHON) -m tagger build demo --data-dir $(DEMO)
	$(PYTHON) build_mtt.py --data-dir $(DEMO) --num-audios-per-shard 20
	$(PYTHON) train.py --data-dir $(DEMO) --train-dir $(DEMO)/log --block se \
	    --num-filters 16 --batch-size 8 --lr 0.03 --num-lr-decays 2 --max-epochs $(EPOCHS) \
	    --patience 4
	$(PYTHON) extract_excitations.py $(DEMO)/log/model.keras --data-dir $(DEMO) \
	    --output $(DEMO)/excitations.pkl --plots $(DEMO)/plots --force
	$(PYTHON) eval.py $(DEMO)/log/model.keras --data-dir $(DEMO) \
	    --output $(DEMO)/scores.csv --plot $(DEMO)/plots/scores.png --force
	$(PYTHON) -m tagger tag $(DEMO)/mp3/f/demo-0-0015-violin.mp3 \
	    --model $(DEMO)/log/model.keras
	$(PYTHON) -m tagger explain $(DEMO)/mp3/f/demo-0-0015-violin.mp3 \
	    --model $(DEMO)/log/model.keras --output $(DEMO)/explained --force

test: .venv/installed-test
	$(PYTHON) -m pytest

docs: .venv/installed-docs
	$(PYTHON) -m sphinx --fail-on-warning --keep-going --quiet docs docs/_build/html

benchmark: .venv/installed
	$(PYTHON) benchmarks/users.py

.venv/installed: requirements.txt
	python3 -m venv .venv
	$(PYTHON) -m pip install --quiet --upgrade pip
	$(PYTHON) -m pip install --quiet -r requirements.txt
	touch $@

.venv/installed-test: .venv/installed pyproject.toml
	$(PYTHON) -m pip install --quiet --editable '.[test]'
	touch $@

.venv/installed-docs: .venv/installed pyproject.toml
	$(PYTHON) -m pip install --quiet --editable '.[docs]'
	touch $@

.PHONY: benchmark demo docs test
