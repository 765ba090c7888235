# The short way in; `make help` lists the targets. Everything is built in build/<preset>.
PRESET ?= release
MODEL ?= smollm2-135m
BUILD := build/$(PRESET)
BIN := $(BUILD)/bin
# What `make sanitize` builds: everything that reads files and text from outside, and everything that has threads.
# PRESET asan-core and tsan build the whole core.
ADDRESS_TESTS := formats_test formats_golden_test tokenizer_test chat_template_test sampler_test scheduling_test \
                 speculation_test simple_drafters_test draft_engine_test
THREAD_TESTS := engine_test step_loop_test draft_loop_test
# Of each fuzz target.
FUZZ_SECONDS ?= 30
# Root installs directly, others through sudo where there is one.
SUDO := $(shell [ "$$(id -u)" = 0 ] || command -v sudo)

.DEFAULT_GOAL := build
.PHONY: help deps deps-check deps-fuzz deps-image build run test sanitize sanitize-address sanitize-threads fuzz bench \
        bench-cpu bench-load check image format clean

help:
	@echo 'make           build programs and tests (PRESET=release|debug|asan|tsan)'
	@echo 'make deps      install the Debian packages of packages/debian12.txt (check, format, fuzz and image have their own)'
	@echo 'make run       build, pull MODEL ($(MODEL)), start everything, ask one question, serve until Ctrl-C'
	@echo 'make test      build and run all tests'
	@echo 'make sanitize  parsers and threads of the core under address, undefined-behaviour and thread sanitizers'
	@echo 'make fuzz      parsers of files and requests on hostile input, FUZZ_SECONDS=$(FUZZ_SECONDS) for each target'
	@echo 'make bench     decode, prefill and verify-cost figures of MODEL on this machine'
	@echo 'make bench-cpu  CPU goals with floor and reach, beside llama.cpp, twins of MODEL at four widths; GOALS=C1,C3 measures'
	@echo '                these only, PROMPTS="FILE ..." for real ones (about half an hour; fetches llama.cpp, and torch for C6)'
	@echo 'make bench-load  window policies at 1 to 64 requests at a time, on PROMPTS="FILE ..." (half an hour)'
	@echo 'make check     formatting, clang-tidy on the files changed since BASE (default: the last commit), deploy/ and docker/'
	@echo 'make image     builds the images of docker/ without a daemon, runs them, asks them a question (minutes)'
	@echo 'make format    reformat the sources'
	@echo 'make clean     remove build/'

# Only asks the package manager for what is missing, so that it costs nothing once all is there.
deps: PACKAGE_LIST = packages/debian12.txt
deps-check: PACKAGE_LIST = packages/debian12-check.txt
deps-fuzz: PACKAGE_LIST = packages/debian12-fuzz.txt
deps-image: PACKAGE_LIST = packages/debian12-image.txt
deps deps-check deps-fuzz deps-image:
	@packages=$$(sed 's/#.*//' $(PACKAGE_LIST)); \
	missing=$$(dpkg-query -W -f '$${Package} $${Status}\n' $$packages 2>/dev/null | \
	    awk '/install ok installed/ {print $$1}' | sort > /tmp/tandem-have.$$$$; \
	    printf '%s\n' $$packages | sort | comm -23 - /tmp/tandem-have.$$$$; rm -f /tmp/tandem-have.$$$$); \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ] && [ -z "$(SUDO)" ]; then \
	  echo "These Debian packages are missing; as root run:"; \
	  echo "  apt-get install --no-install-recommends" $$missing; exit 1; \
	fi; \
	$(SUDO) apt-get update -q && \
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$missing

$(BUILD)/build.ninja: CMakeLists.txt CMakePresets.json | deps
	cmake --preset $(PRESET)

build: $(BUILD)/build.ninja
	cmake --build $(BUILD)

run: build
	@$(BIN)/tandem up --model $(MODEL) --ask 'What is the capital of France?'

test: build
	ctest --test-dir $(BUILD) --output-on-failure $(CTEST_FLAGS)

sanitize: sanitize-address sanitize-threads

sanitize-address: deps
	cmake --preset asan-core -DTANDEM_SANITIZE_KERNELS=OFF && cmake --build build/asan-core --target $(ADDRESS_TESTS) && \
	  ctest --test-dir build/asan-core --output-on-failure -R '^($(subst $() ,|,$(ADDRESS_TESTS)))$$'

sanitize-threads: deps
	cmake --preset tsan -DTANDEM_SANITIZE_KERNELS=OFF && cmake --build build/tsan --target $(THREAD_TESTS) && \
	  ctest --test-dir build/tsan --output-on-failure -R '^($(subst $() ,|,$(THREAD_TESTS)))$$'

fuzz: deps deps-fuzz
	cmake --preset fuzz && cmake --build --preset fuzz && tests/fuzz/run.sh build/fuzz $(FUZZ_SECONDS)

bench: build
	$(BIN)/tandem pull $(MODEL)
	tests/bench/bench.sh $(BIN) $(MODEL)

# SWEEP: further flags of bench_cpu.py, such as --rounds 9 --json FILE.
bench-cpu: build
	$(BIN)/tandem pull $(MODEL)
	tests/integration/make_venv.sh $(BUILD)/python tests/requirements.txt
	TANDEM_BIN=$(BIN) $(BUILD)/python/bin/python tests/bench/bench_cpu.py --bin $(BIN) --model $(MODEL) \
	  $(if $(GOALS),--only $(GOALS)) $(if $(PROMPTS),--prompts $(PROMPTS)) $(SWEEP)

bench-load: build
	$(BIN)/tandem pull $(MODEL)
	tests/integration/make_venv.sh $(BUILD)/python tests/requirements.txt
	TANDEM_BIN=$(BIN) $(BUILD)/python/bin/python tests/bench/load_sweep.py --prompts $(PROMPTS) $(SWEEP)

BASE ?= HEAD
check: $(BUILD)/build.ninja deps-check
	git ls-files '*.cc' '*.cu' '*.h' | xargs clang-format --dry-run --Werror
	tests/tidy.sh $(BUILD) $(BASE)
	tests/deploy/lint.sh $(BUILD)/check-python

# IMAGE_BASE: a Debian 12 image that buildah can pull or has; without, one is made with debootstrap.
image: deps deps-image
	tests/deploy/image.sh build/image $(IMAGE_BASE)

format: deps-check
	git ls-files '*.cc' '*.cu' '*.h' | xargs clang-format -i

clean:
	rm -rf build
