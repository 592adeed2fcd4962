# Everything starts from Python, pip and make. The virtual environment is made once, and again
# only when pyproject.toml or the lock changes.
PYTHON  ?= python3
PROFILE ?= toy
VENV    := .venv
BIN     := $(VENV)/bin
READY   := $(VENV)/.ready
# The releases that this state was tested with; `make LOCK=/dev/null` takes the newest ones.
LOCK    ?= requirements.lock
LOWEST  := filelock|jinja2|numpy|packaging|pandas|pillow|pillow-heif|psutil|pydantic|pyyaml|tqdm|typer|utm

.PHONY: demo study figures site test lowest browser notebooks lab app lint format lock weights clean help

help:            ## what can be made
	@grep -E '^[a-z]+: .*##|^[a-z]+:  *##' $(MAKEFILE_LIST) | sed 's/:[^#]*##/\t/' | expand -t 12

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(READY): pyproject.toml $(LOCK) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint $(LOCK) --editable '.[all,test,dev]'
	touch $@

demo: $(READY)   ## train and evaluate DINO-Mix on the embedded city, as notebooks
	$(BIN)/dinomix run demo

study: $(READY)  ## all notebooks of the embedded city: every table and figure, 99 minutes
	$(BIN)/dinomix run toy

notebooks: $(READY)  ## run the notebooks of PROFILE (smoke, toy or paper); ONLY=03 SET="seeds=[0,1,2]"
	$(BIN)/dinomix run $(PROFILE) $(if $(ONLY),--only $(ONLY)) $(if $(SET),--set '$(SET)')

figures: $(READY)  ## draw the figures of PROFILE again from finished runs, into figures/PROFILE; ONLY=04
	$(BIN)/dinomix figures $(PROFILE) $(if $(ONLY),--only $(ONLY))

site: $(READY)   ## what has run of PROFILE as a static site: data/site/PROFILE/index.html
	$(BIN)/dinomix site $(PROFILE)

test: $(READY)   ## run the fast tests, a process on each core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

lowest: $(READY)  ## test with the oldest releases that pyproject.toml allows, of what installs in seconds
	$(BIN)/python -m pip install --quiet --only-binary :all: --upgrade --target $(VENV)/lowest \
	  $$(sed -nE 's/^.*"($(LOWEST))>=([^,]*),.*/\1==\2/p' pyproject.toml)
	PYTHONPATH=$(abspath $(VENV)/lowest) $(BIN)/python -m pytest tests/test_images.py \
	  tests/localization/test_photos.py tests/plumbing

browser: $(READY)  ## try notebook 10, its page and the site in Chromium, which must be installed
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

lock: | $(BIN)/python  ## write requirements.lock again, with the newest releases let in; then make test
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --all-extras --no-annotate \
	  --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' \
	  pyproject.toml --output-file requirements.lock

weights: $(READY)  ## pretrain the stand-in backbones again (see docs/study.md for what it costs)
	$(BIN)/dinomix pretrain

clean:           ## remove the virtual environment; data and runs stay
	rm -rf $(VENV)
