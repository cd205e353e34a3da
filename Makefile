# make train    train on this machine's CPU; TASK=walker_walk, ARGS="--seed 1"
# make test     the default tests; ARGS="tests/envs -x"
# make test-clients   the adapters, with the libraries that they are for
# make docs     the documentation, in site/
PYTHON ?= python3
# The machine with the GPU has torch, jax and pytest already and may have no network: no venv there.
GPU_PYTHON ?= python3
UNINSTALLED := PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/.types:$$PYTHONPATH
# A file's tests share what they compile, so they stay on one process; envs, the longest, come early.
PARALLEL ?= --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
TASK ?= cartpole_swingup
SECONDS ?= 400
JSON ?= bench/results/gpu.jsonl
ARGS ?=

VENV := .venv
COMMA := ,
PIP_INSTALL := $(VENV)/bin/python -m pip install --disable-pip-version-check
# dm_control names labmaze, which nothing of the suite imports and which has no wheel for Python 3.13
# and newer (1.0.6): there dm_control is installed without its dependencies, after all else.
install = if $(VENV)/bin/python -c 'import sys; sys.exit(sys.version_info >= (3, 13))'; \
	then $(PIP_INSTALL) -c constraints.txt -e '.$(1)'; \
	else grep -v -e '^labmaze' -e '^dm_control' constraints.txt > $(VENV)/pins.txt && \
	  $(PIP_INSTALL) -r $(VENV)/pins.txt && \
	  $(PIP_INSTALL) -c constraints.txt --no-deps dm_control -e .; fi

.PHONY: train test test-all test-clients test-gpu bench-gpu learn-gpu prove-gpu docs lint types clean .types
.NOTPARALLEL:

train: $(VENV)/.train
	$(VENV)/bin/fastsac train $(TASK) --preset cpu $(ARGS)

test: $(VENV)/.test
	$(VENV)/bin/python -m pytest $(PARALLEL) -m "not gpu and not slow" $(ARGS)

test-all: $(VENV)/.test
	$(VENV)/bin/python -m pytest $(PARALLEL) -m "not gpu" $(ARGS)

# The libraries that fastsac/adapters is for, in a venv of their own; seven minutes.
test-clients:
	$(MAKE) VENV=.venv-clients .venv-clients/.clients
	.venv-clients/bin/python -m pytest $(PARALLEL) tests/fastsac/adapters $(ARGS)

test-gpu: .types
	$(UNINSTALLED) $(GPU_PYTHON) -m pytest -m gpu $(ARGS)

bench-gpu: .types
	$(UNINSTALLED) $(GPU_PYTHON) -m fastsac bench --max-seconds 480 --json $(JSON) $(ARGS)

learn-gpu: .types
	$(UNINSTALLED) $(GPU_PYTHON) -m fastsac bench learning $(TASK) --seeds 1 \
	  --setting fast="--preset fast --max-seconds $(SECONDS)" $(ARGS)

# What the GPU engines would cost on a GPU, counted by CUDA's compilers on any machine, in a venv of
# its own: XLA's is 132 MB. MJX takes six minutes for humanoid on two cores, hours for all tasks.
prove-gpu:
	$(MAKE) VENV=.venv-offline .venv-offline/.offline
	.venv-offline/bin/fastsac bench offline --engine warp $(ARGS)
	.venv-offline/bin/fastsac bench offline $(ARGS)
	.venv-offline/bin/fastsac bench offline --page

docs: $(VENV)/.test .types
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# kernels/, envs/ and bench/ are subpackages of fastsac by pyproject's package-dir, which mypy does
# not follow: a tree of links shows it, and Pythons without the package, the package as installed.
types: $(VENV)/.dev .types
	MYPYPATH=.types $(VENV)/bin/mypy -p fastsac

.types:
	rm -rf $@ && mkdir -p $@/fastsac
	cd $@/fastsac && ln -s ../../fastsac/* ../../kernels ../../envs ../../bench .

clean:
	rm -rf $(VENV) .venv-offline .venv-clients .types build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find fastsac kernels envs bench tests -name __pycache__ -prune -exec rm -rf {} +

# The stamps: each larger install includes the smaller ones.
$(VENV)/.train: pyproject.toml constraints.txt | $(VENV)/.created
	@$(call install,)
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/.created
	@$(call install,[test])
	@touch $(VENV)/.train $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/.created
	@$(call install,[dev])
	@touch $(VENV)/.train $(VENV)/.test $@

$(VENV)/.clients: pyproject.toml constraints.txt | $(VENV)/.created
	@$(call install,[test$(COMMA)clients])
	@touch $(VENV)/.train $(VENV)/.test $@

$(VENV)/.offline: pyproject.toml constraints.txt | $(VENV)/.created
	@$(call install,[warp])
	@v=$$($(VENV)/bin/python -c 'from importlib.metadata import version; print(version("jax"))') && \
	  $(PIP_INSTALL) --no-deps jax-cuda13-plugin==$$v jax-cuda13-pjrt==$$v
	@touch $(VENV)/.train $@

# Debian's and Ubuntu's python3 makes no virtual environments without the package python3-venv.
$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "fastsac needs Python 3.11 or newer and found no $(PYTHON)." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if v >= (3, 11) else \
	  "fastsac needs Python 3.11 or newer and $(PYTHON) is %d.%d; name another one like this: make PYTHON=python3.12" % v)'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || ! command -v apt-get >/dev/null || { \
	  if [ "$$(id -u)" = 0 ]; then sudo=; else sudo=sudo; command -v sudo >/dev/null || exit 0; fi; \
	  echo "$(PYTHON) makes no virtual environments yet: installing the package python3-venv."; \
	  $$sudo apt-get update -qq && $$sudo env DEBIAN_FRONTEND=noninteractive \
	    apt-get install -qq -y --no-install-recommends python3-venv; } || true
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) makes no virtual environments: install the package python3-venv." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@
