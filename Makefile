# Everything that is done with this repository. `make` alone prints the list.
#
# Nothing needs preparing: each target makes the virtual environment, installs what it lacks and builds, once. Files
# named .venv/.done-* remember what was done, so a second run starts at once, and a changed source builds again.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

VENV := .venv
PY := $(VENV)/bin/python
INSTALL := $(PY) scripts/install.py
SOURCES := $(wildcard src/core/*.[ch] src/redis/*.[ch] src/redis/lua/*.lua src/python/*.[ch])

.PHONY: help build demo test test-all test-rest check analyze format bench core-test asan tsan free-threaded leaks fuzz clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- the environment and the build

$(VENV)/.done-venv: scripts/find-python scripts/bootstrap.py scripts/find_hiredis.py
	@python=$$(scripts/find-python); "$$python" scripts/bootstrap.py $(VENV)
	@touch $@

$(VENV)/.done-install: $(VENV)/.done-venv pyproject.toml setup.py
	@echo "building headway"
	@$(INSTALL) --self
	@touch $@

# Faster than pip: compiles only where a source is newer than the module that is there.
$(VENV)/.done-build: $(VENV)/.done-install $(SOURCES)
	@$(PY) scripts/build.py
	@touch $@

# .done-extra-NAME: what the extra NAME of pyproject.toml needs.
$(VENV)/.done-extra-%: $(VENV)/.done-install scripts/requirements.py scripts/install.py
	@echo "installing what '$*' needs"
	@$(INSTALL) --extra $*
	@touch $@

build: $(VENV)/.done-build ## build the C core and install headway in .venv, editable
	@echo "headway is built: $(PY)"

# --- what a visitor runs

demo: $(VENV)/.done-build $(VENV)/.done-extra-demo ## a real server, real clients, and a live table of who was let in
	@mkdir -p build
	@$(VENV)/bin/headway demo --log build/demo-access.log --plot build/demo.png
	@echo
	@$(VENV)/bin/headway replay build/demo-access.log --quota "10/s burst 20"

# The tests start their own servers; where one cannot be installed, its tests say so and are left out.
$(VENV)/.done-servers $(VENV)/.done-all-servers: $(VENV)/.done-venv scripts/servers.py
	@$(PY) scripts/servers.py $(if $(findstring all,$@),all)
	@touch $@

test: $(VENV)/.done-build $(VENV)/.done-extra-test $(VENV)/.done-servers ## the tests: the C core, all of Python, a real Redis; some minutes
	@$(PY) scripts/run_tests.py

test-all: test test-rest ## those, then sanitizers, slow tests, browsers, and each other Python found

test-rest: $(VENV)/.done-build $(VENV)/.done-extra-test $(VENV)/.done-all-servers
	@$(PY) scripts/run_tests.py rest

bench: $(VENV)/.done-build $(VENV)/.done-extra-bench ## measure against the peers; tables and plots in benchmarks/results
	@$(INSTALL) -r benchmarks/requirements.txt
	@$(PY) -m benchmarks

# --- the C core on its own: build/core/VARIANT/test_NAME from tests/core/test_NAME.c and src/core/*.c

CC ?= cc
CORE_HEADERS := $(wildcard src/core/*.h tests/core/*.h)
CORE_OBJECTS := $(patsubst src/core/%.c,%.o,$(wildcard src/core/*.c))
CORE_TESTS := $(patsubst tests/core/%.c,%,$(wildcard tests/core/test_*.c))
CORE_FUZZ := $(filter-out fuzz_replay,$(patsubst tests/core/%.c,%,$(wildcard tests/core/fuzz_*.c)))
CORE_FLAGS := -std=c11 -D_GNU_SOURCE -g -pthread -Wall -Wextra -Isrc/core -Itests/core
ifeq ($(CI),true)
CORE_FLAGS += -Werror
endif

FLAGS_plain := -O2
FLAGS_asan := -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
FLAGS_tsan := -O1 -fno-omit-frame-pointer -fsanitize=thread
FLAGS_fuzz := -O1 -fno-omit-frame-pointer -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all

# These test what stands on hiredis; where that is not installed, each says so and tests nothing.
LINK_TESTS := test_link test_replies test_dial
LINK_SOURCES := $(addprefix src/redis/,connection.c dial.c link.c link_threads.c replies.c)
REPLY_SOURCES := $(LINK_SOURCES) src/redis/scripts.c src/redis/lease.c

FUZZ_MAIN_plain := tests/core/fuzz_replay.c
FUZZ_MAIN_asan := tests/core/fuzz_replay.c
FUZZ_MAIN_tsan := tests/core/fuzz_replay.c
FUZZ_MAIN_fuzz := -fsanitize=fuzzer

define variant
build/core/$(1)/%.o: src/core/%.c $$(CORE_HEADERS) Makefile
	@mkdir -p $$(@D)
	@$(2) $$(CORE_FLAGS) $$(FLAGS_$(1)) -c $$< -o $$@

build/core/$(1)/test_%: tests/core/test_%.c $$(addprefix build/core/$(1)/,$$(CORE_OBJECTS)) $$(CORE_HEADERS)
	@$(2) $$(CORE_FLAGS) $$(FLAGS_$(1)) $$< $$(filter %.o,$$^) -lm -o $$@

$$(addprefix build/core/$(1)/,$$(LINK_TESTS)): build/core/$(1)/%: tests/core/%.c $(LINK_SOURCES) $$(addprefix build/core/$(1)/,$$(CORE_OBJECTS)) $$(CORE_HEADERS) $$(wildcard src/redis/*.h)
	@if hiredis=$$$$($$(PY) scripts/find_hiredis.py); then hiredis="$(LINK_SOURCES) $$$$hiredis"; else hiredis=-DHEADWAY_WITHOUT_REDIS=1; fi; \
	$(2) $$(CORE_FLAGS) -Isrc/redis $$(FLAGS_$(1)) $$< $$(filter %.o,$$^) $$$$hiredis -lm -o $$@

# A fuzz target with a main of its own, which replays a corpus; for `make fuzz`, with that of libFuzzer.
build/core/$(1)/fuzz_%: tests/core/fuzz_%.c tests/core/fuzz_replay.c $$(addprefix build/core/$(1)/,$$(CORE_OBJECTS)) $$(CORE_HEADERS)
	@$(2) $$(CORE_FLAGS) $$(FLAGS_$(1)) $$(FUZZ_MAIN_$(1)) $$< $$(filter %.o,$$^) -lm -o $$@

build/core/$(1)/fuzz_replies: tests/core/fuzz_replies.c tests/core/fuzz_replay.c $(REPLY_SOURCES) $$(addprefix build/core/$(1)/,$$(CORE_OBJECTS)) $$(CORE_HEADERS) $$(wildcard src/redis/*.h src/redis/lua/*.lua)
	@mkdir -p build/generated && $$(PY) scripts/embed_lua.py build/generated/lua_scripts.h
	@if hiredis=$$$$($$(PY) scripts/find_hiredis.py); then hiredis="$(REPLY_SOURCES) $$$$hiredis"; else hiredis=-DHEADWAY_WITHOUT_REDIS=1; fi; \
	$(2) $$(CORE_FLAGS) -Isrc/redis -Ibuild/generated $$(FLAGS_$(1)) $$(FUZZ_MAIN_$(1)) $$< $$(filter %.o,$$^) $$$$hiredis -lm -o $$@

.PHONY: core-programs-$(1)
core-programs-$(1): $$(addprefix build/core/$(1)/,$$(CORE_TESTS) $$(CORE_FUZZ))
endef
$(eval $(call variant,plain,$$(CC)))
$(eval $(call variant,asan,$$(CC)))
$(eval $(call variant,tsan,$$(CC)))
$(eval $(call variant,fuzz,clang))
# Objects are kept: without this, make would take them for scaffolding and remove them.
.SECONDARY:

core-test: $(VENV)/.done-venv ## the C tests alone
	@$(PY) scripts/run_tests.py c plain

asan: $(VENV)/.done-venv ## the C tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@$(PY) scripts/run_tests.py c asan

tsan: $(VENV)/.done-venv ## the C tests under ThreadSanitizer
	@$(PY) scripts/run_tests.py c tsan

# Builds the interpreters once (scripts/build-python), some minutes each.
free-threaded: ## the fast tests on a Python without a GIL, and those of threads under ThreadSanitizer
	@scripts/free-threaded

# Builds the interpreter once (scripts/build-python), some minutes.
leaks: ## many calls of each entry point on a debug build of CPython, which counts all references
	@scripts/leaks

FUZZ_SECONDS ?= 20

fuzz: $(VENV)/.done-venv ## libFuzzer on tests/core/fuzz_*.c, FUZZ_SECONDS (20) each; needs clang
	@command -v clang >/dev/null || { echo "make fuzz needs clang: sudo apt-get install clang" >&2; exit 1; }
	@$(MAKE) $(addprefix build/core/fuzz/,$(CORE_FUZZ))
	@for name in $(CORE_FUZZ); do \
	    echo "== $$name, $(FUZZ_SECONDS) s"; \
	    mkdir -p build/fuzz/$$name; \
	    build/core/fuzz/$$name -max_total_time=$(FUZZ_SECONDS) -print_final_stats=0 -verbosity=0 \
	        -artifact_prefix=build/fuzz/ build/fuzz/$$name tests/core/corpus/$${name#fuzz_}; \
	done

# --- format, lint, types, warnings

C_FILES := $(wildcard src/core/*.[ch] src/redis/*.[ch] src/python/*.[ch] tests/core/*.[ch])
PYTHON_FILES := python setup.py scripts $(wildcard tests benchmarks)

check: $(VENV)/.done-build $(VENV)/.done-extra-test $(VENV)/.done-extra-lint ## format, lint, types, C warnings on gcc and clang
	@scripts/check $(VENV)

analyze: $(VENV)/.done-venv ## static analysis of src/core and src/redis by gcc and clang; what has changed
	@$(PY) scripts/analyze.py

format: $(VENV)/.done-extra-lint ## put C and Python into the house style
	@$(VENV)/bin/clang-format -i $(C_FILES)
	@$(VENV)/bin/ruff check -q --fix-only $(PYTHON_FILES)
	@$(VENV)/bin/ruff format -q $(PYTHON_FILES)

clean: ## remove builds, environments and caches
	@rm -rf build dist .venv .venv-3.* .mypy_cache .ruff_cache .pytest_cache .hypothesis python/*.egg-info
	@rm -f python/headway/*.so
	@find python scripts tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

# --- releases: docs/releasing.md

DIST ?= dist

.PHONY: wheels wheels-test release-check

wheels: $(VENV)/.done-install $(VENV)/.done-extra-wheels ## the sdist and a wheel for each Python and processor, in dist
	@$(PY) scripts/wheels.py "$(DIST)"

wheels-test: $(VENV)/.done-install ## each wheel, in a bare system without compiler: a smoke test and the fast tests
	@$(PY) scripts/wheels_test.py "$(DIST)"

release-check: $(VENV)/.done-build $(VENV)/.done-extra-test $(VENV)/.done-extra-wheels ## whether this checkout can be released as it is
	@$(PY) scripts/release_check.py $(if $(FILES),--files "$(FILES)")

# --- torture: each moment of each operation (tests/torture/run.py --help)

SECONDS ?= 600
TORTURE := $(PY) tests/torture/run.py --seconds $(SECONDS) $(if $(ONLY),--only '$(ONLY)') $(if $(TORMENT),--torment '$(TORMENT)') $(if $(MOMENT),--moment $(MOMENT)) $(if $(PART),--part $(PART))

.PHONY: torture torture-asan

torture: $(VENV)/.done-build $(VENV)/.done-extra-test $(VENV)/.done-servers ## each operation with an allocation failing, a signal, a cancel at each moment; SECONDS (600), ONLY=, TORMENT=, MOMENT=, PART=
	@$(TORTURE)

torture-asan: $(VENV)/.done-build $(VENV)/.done-extra-test $(VENV)/.done-servers ## the same, with the extension under AddressSanitizer and UndefinedBehaviorSanitizer
	@$(PY) tests/torture/sanitized.py
	@$(TORTURE) --sanitized build/torture-asan --report build/torture-asan.json

# --- the service among hostile clients (tests/serve/soak.py)

.PHONY: soak-service

soak-service: $(VENV)/.done-build $(VENV)/.done-extra-test ## the service among hostile clients: memory, and how long others wait; SECONDS (600), ONLY=
	@$(PY) tests/serve/soak.py --seconds $(SECONDS) $(if $(ONLY),--only $(ONLY))
