# Everything starts from Python, pip and make. The virtual environment is made once, and again
# only when pyproject.toml changes.
PYTHON  ?= python3
PROFILE ?= toy
VENV    := .venv
BIN     := $(VENV)/bin
READY   := $(VENV)/.ready
LOWEST  := filelock|jinja2|numpy|packaging|pandas|pillow|pillow-heif|psutil|pydantic|pyyaml|tqdm|typer|utm

.PHONY: demo study figures test lowest browser notebooks lab app lint format weights clean help

help:            ## what can be made
	@grep -E '^[a-z]+: .*##|^[a-z]+:  *##' $(MAKEFILE_LIST) | sed 's/:[^#]*##/\t/' | expand -t 12

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test,dev]'
	touch $@

demo: $(READY)   ## train and evaluate DINO-Mix on the embedded city, as notebooks
	$(BIN)/dinomix run demo

study: $(READY)  ## all notebooks of the embedded city: every table and figure, about an hour
	$(BIN)/dinomix run toy

notebooks: $(READY)  ## run the notebooks of PROFILE (smoke, toy or paper); ONLY=03 SET="seeds=[0,1,2]"
	$(BIN)/dinomix run $(PROFILE) $(if $(ONLY),--only $(ONLY)) $(if $(SET),--set '$(SET)')

figures: $(READY)  ## draw the figures of PROFILE again from finished runs, into figures/PROFILE; ONLY=04
	$(BIN)/dinomix figures $(PROFILE) $(if $(ONLY),--only $(ONLY))

test: $(READY)   ## run the fast tests, a process on each core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

lowest: $(READY)  ## test with the oldest releases that pyproject.toml allows, of what installs in seconds
	$(BIN)/python -m pip install --quiet --only-binary :all: --upgrade --target $(VENV)/lowest \
	  $$(sed -nE 's/^.*"($(LOWEST))>=([^,]*),.*/\1==\2/p' pyproject.toml)
	PYTHONPATH=$(abspath $(VENV)/lowest) $(BIN)/python -m pytest tests/test_images.py \
	  tests/localization/test_photos.py tests/plumbing

browser: $(READY)  ## try notebook 10 and its page in Chromium, which must be installed
	$(BIN)/python -m pytest -m browser --require-browser

lab: $(READY)    ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) notebooks

app: PROFILE = demo
app: $(READY)    ## notebook 10 as a page of its own; PROFILE=toy shows the study instead of the demo
	$(BIN)/dinomix page $(PROFILE)

lint: $(READY)   ## check format, rules, imports between rooms, and that notebooks carry no outputs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/nbstripout --verify notebooks/*.ipynb

format: $(READY) ## put everything into form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/nbstripout notebooks/*.ipynb

weights: $(READY)  ## pretrain the stand-in backbones again (see docs/study.md for what it costs)
	$(BIN)/dinomix pretrain

clean:           ## remove the virtual environment; data and runs stay
	rm -rf $(VENV)
