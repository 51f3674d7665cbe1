# SPDX-License-Identifier: MIT
#
# make, make demo and make check are all that a new user needs: each installs what is missing,
# builds and runs. Everything that is built lies in build/; `make help` lists the targets.
#
# Variables (on the command line, or once for all through `make configure NAME=value …`):
#   VARIANT  release | asan | ubsan | fuzz, or the CUDA backend on the CPU: simt | simt-asan |
#            simt-tsan | simt-gcov (tests/simt)
#   ARCH     processor for which src/backend/cpu is compiled: native, x86-64-v3 …
#   GEMM     onednn | cblas
#   CUDA     1 | 0: with the CUDA backend or without; 1 where nvcc and cuBLAS are found
#   CUDA_ARCHITECTURES  compute capabilities for which kernels are compiled: 75 80 90 100 120
#   PREFIX   where `make install` puts things
#   WERROR   -Werror, or empty for compilers whose warnings we have not met

-include build/config.mk

VARIANT ?= release
ARCH    ?= native
PREFIX  ?= /usr/local
WERROR  ?= -Werror
ifeq ($(origin CC),default)
CC      := gcc
endif

MAKEFLAGS += --no-builtin-rules
ifeq ($(MAKELEVEL),0)
MAKEFLAGS += -j$(shell nproc 2>/dev/null || echo 1)
endif
.SUFFIXES:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := all

# ---- what is there ---------------------------------------------------------------------------

# Libraries and Python: found, or installed, by a script. Make runs it first and starts over.
without_libraries := help clean format configure smollm2
ifneq ($(filter-out $(without_libraries),$(or $(MAKECMDGOALS),all)),)
include build/deps.mk
endif
GEMM ?= $(DEPS_GEMM)
CUDA ?= $(if $(NVCC),1,0)
CUDA_ARCHITECTURES ?= $(NVCC_ARCHITECTURES)
simulated := $(filter simt%,$(VARIANT))
ifneq ($(simulated),)
include tests/simt/settings.mk
else ifeq ($(CUDA)$(NVCC)$(filter deps,$(MAKECMDGOALS))$(if $(wildcard build/deps.mk),,unknown),1)
$(error CUDA=1: expected nvcc and cuBLAS, found none; set CUDA_HOME to the CUDA toolkit and type 'make deps')
endif

# Optional parts add files: one of the two GEMM files is compiled, and the folder src/backend/cuda
# with the kernels, or the file that stands for it in the registry.
other_gemm    := $(filter-out $(GEMM),onednn cblas)
other_cuda    := $(if $(filter 1,$(CUDA)),src/backend/absent/cuda.c,src/backend/cuda/%)
sources       := $(filter-out $(other_gemm:%=src/backend/cpu/gemm_%.c) $(other_cuda),\
                 $(sort $(shell find src -name '*.c')))
kernels       := $(if $(filter 1,$(CUDA)),$(sort $(wildcard kernels/*.cu)))
headers       := $(wildcard include/causa/*.h)
test_sources  := $(sort $(wildcard tests/*/test_*.c))
fuzz_sources  := $(sort $(wildcard tests/fuzz/fuzz_*.c))
bench_sources := $(sort $(wildcard tests/bench/bench_*.c))

out      := build/$(VARIANT)
library  := $(out)/libcausa.a
program  := $(if $(wildcard src/cli/main.c),$(out)/causa)
tests    := $(test_sources:%.c=$(out)/%)
replays  := $(fuzz_sources:%.c=$(out)/%)
benches  := $(bench_sources:tests/bench/%.c=build/%)
compiled_kernels := $(if $(simulated),$(out),build)/kernels
launchers := $(strip $(kernels:kernels/%.cu=$(compiled_kernels)/%.o) $(simulated_libraries:%.cc=$(out)/%.o))
object    = $(patsubst %.c,$(out)/%.o,$(1))

# ---- flags -----------------------------------------------------------------------------------

# GCC guesses wrong about uninitialised values when it inlines much: told, but no error.
warnings         := -Wall -Wextra -Wpedantic -Wconversion -Wshadow $(WERROR) \
                    -Wno-error=maybe-uninitialized
variant_release  := -O3
variant_asan     := -O1 -fsanitize=address -fno-omit-frame-pointer -Wno-error
variant_ubsan    := -O1 -fsanitize=undefined -fno-sanitize-recover=undefined -Wno-error
variant_fuzz     := -O1 -fsanitize=fuzzer-no-link,address,undefined -Wno-error
variant_simt      := -O2
variant_simt-asan := -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined -Wno-error
variant_simt-tsan := -O1 # the kernels alone are instrumented
variant_simt-gcov := -O1 # kernels and src/backend/cuda are instrumented
openmp           := -fopenmp

# libFuzzer comes with clang; only the parsers are built with it, and they need no OpenMP.
ifeq ($(VARIANT),fuzz)
CC      := clang
openmp  :=
launchers :=
sources := $(filter $(addprefix src/,base/% config/% model/% tokenizer/% data/% result/% circuit/%),$(sources))
endif

CFLAGS   ?= -g
compile  := -std=c11 -D_GNU_SOURCE -Iinclude $(warnings) $(openmp) $(variant_$(VARIANT)) \
            $(CFLAGS) $(CPPFLAGS) $(DEPS_CPPFLAGS)
cpu_only := -march=$(ARCH) -ffp-contract=fast -fno-math-errno
link     := $(variant_$(VARIANT)) $(openmp) $(CFLAGS) $(LDFLAGS)
libs     := -Wl,--as-needed $(DEPS_LIBS) $(GEMM_LIBS_$(GEMM)) $(if $(launchers),$(CUDA_LIBS)) \
            -lpthread -lm $(LDLIBS)

# Machine code for every architecture, and PTX of the newest for those to come. Without exceptions
# and guarded statics the objects need no C++ library.
nvcc_flags := -std=c++17 -O3 -lineinfo --threads 0 $(NVCC_OPTIONS) -Iinclude -Ikernels -Werror all-warnings \
              -Xcompiler -Wall,-Wextra,-Werror,-fno-exceptions,-fno-rtti,-fno-threadsafe-statics \
              -Xptxas -v $(foreach a,$(CUDA_ARCHITECTURES),-gencode arch=compute_$a,code=sm_$a) \
              $(foreach a,$(lastword $(CUDA_ARCHITECTURES)),-gencode arch=compute_$a,code=compute_$a)

ifeq ($(variant_$(VARIANT)),)
$(error VARIANT: expected release, asan, ubsan, fuzz, simt, simt-asan, simt-tsan or simt-gcov, got '$(VARIANT)')
endif

# ---- build -----------------------------------------------------------------------------------

.PHONY: all deps configure info
all: $(library) $(program) $(if $(program),$(if $(filter release,$(VARIANT)),build/causa)) ## build build/causa and its library

build/deps.mk: .make/deps.sh
	@CC='$(CC)' CPPFLAGS='$(CPPFLAGS)' LDFLAGS='$(LDFLAGS)' .make/deps.sh

deps: ## look for the libraries again; install what is missing
	@CC='$(CC)' CPPFLAGS='$(CPPFLAGS)' LDFLAGS='$(LDFLAGS)' .make/deps.sh
	@echo 'libraries: $(LIBRARY_VERSIONS); python: $(PYTHON)'

# Texts on which objects depend: rewritten only when they change.
define write_if_changed
@mkdir -p $(@D)
@printf '%s\n' $(1) | cmp -s - $@ || printf '%s\n' $(1) >$@
endef

revision := $(or $(shell git describe --always --dirty --exclude '*' --abbrev=12 2>/dev/null),unknown)
comma    := ,
quoted    = '$(subst ','\'',$(1))'

$(out)/flags: FORCE
	$(call write_if_changed,$(call quoted,$(CC) $(compile) $(cpu_only) $(link) $(libs)))

$(out)/version.flags: FORCE
	$(call write_if_changed,$(call quoted,'-DCA_BUILD_REVISION="$(revision)"') \
	    $(call quoted,'-DCA_BUILD_LIBRARIES="$(LIBRARY_VERSIONS)"') \
	    $(call quoted,'-DCA_BUILD_PYTHON="$(PYTHON)"'))

$(out)/cuda.flags: FORCE
	$(call write_if_changed,$(call quoted,'-DCA_CUDA_LIBRARIES="$(CUDA_VERSIONS)$(NCCL_VERSION:%=$(comma) NCCL %)"') \
	    $(call quoted,'-DCA_CUDA_ARCHITECTURES="sm_$(CUDA_ARCHITECTURES)"'))

library_objects := $(call object,$(filter-out src/cli/main.c,$(sources))) $(launchers)
$(out)/objects: FORCE
	$(call write_if_changed,$(library_objects))

$(call object,src/base/version.c): $(out)/version.flags
$(call object,src/base/version.c): only := @$(out)/version.flags
$(call object,$(filter src/backend/cpu/%,$(sources))): only := $(cpu_only)
$(call object,$(filter src/backend/cuda/%,$(sources))): $(out)/cuda.flags
$(call object,$(filter src/backend/cuda/%,$(sources))): only := -Ikernels $(CUDA_CPPFLAGS) \
    @$(out)/cuda.flags
$(out)/tests/%: only := -Isrc -Isrc/method -Itests

# A subfolder sees the private headers of its layer: src/method/das those of src/method.
layer = $(word 1,$(subst /, ,$1))/$(word 2,$(subst /, ,$1))

$(out)/%.o: %.c $(out)/flags
	@mkdir -p $(@D)
	@echo '  CC    $<'
	@$(CC) $(compile) -I$(call layer,$<) $(only) -MMD -MP -c $< -o $@

# Kernels are the same in every variant. What ptxas says of them stays beside the object.
build/kernels/flags: FORCE
	$(call write_if_changed,$(call quoted,$(NVCC) $(CUDA_VERSIONS) $(nvcc_flags)))

build/kernels/%.o: kernels/%.cu build/kernels/flags
	@echo '  NVCC  $<'
	@$(NVCC) $(nvcc_flags) -MMD -MP -MT $@ -MF $(@:.o=.d) -c $< -o $@ >$(@:.o=.log) 2>&1 || \
	    { cat $(@:.o=.log); exit 1; }

ifneq ($(simulated),)
include tests/simt/rules.mk
endif

$(library): $(library_objects) $(out)/objects
	@echo '  AR    $@'
	@rm -f $@ && ar rcs $@ $(library_objects)

$(out)/causa: $(call object,src/cli/main.c) $(library)
	@echo '  LINK  $@'
	@$(CC) $(link) $^ $(libs) -o $@

build/causa: build/release/causa
	@cp -f $< $@

# A test is one file; what its folder shares lies beside it in files with other names.
shared_by_tests = $(filter-out $(test_sources) tests/fuzz/% tests/bench/%,$(wildcard $(1)*.c))

.SECONDEXPANSION:
$(tests): %: %.o $$(call object,$$(call shared_by_tests,$$(dir $$(subst $(out)/,,$$@)))) $(library)
	@echo '  LINK  $@'
	@$(CC) $(link) $^ $(CMOCKA_LIBS) $(libs) -o $@

# The corpus of each fuzz target runs as a plain test through replay.c.
$(replays): %: %.o $(call object,tests/fuzz/replay.c) $(library)
	@echo '  LINK  $@'
	@$(CC) $(link) $^ $(CMOCKA_LIBS) $(libs) -o $@

$(benches): build/%: build/release/tests/bench/%.o build/release/tests/bench/job.o $(library)
	@echo '  LINK  $@'
	@$(CC) $(link) $^ $(libs) -o $@

configure: ## keep variables for later calls: make configure ARCH=x86-64-v3
	@mkdir -p build
	@printf '%s\n' $(foreach v,$(filter-out MAKEFLAGS,$(.VARIABLES)),$(if $(filter command,$(origin $(v))),$(call quoted,$(v) := $($(v))))) >build/config.mk
	@cat build/config.mk

info: ## show what the build will use
	@printf '%-10s %s\n' variant '$(VARIANT)' compiler "$$($(CC) --version | head -n 1)" \
	    arch '$(ARCH)' gemm '$(GEMM)' revision '$(revision)' \
	    libraries '$(LIBRARY_VERSIONS)' \
	    cuda '$(if $(kernels),$(CUDA_VERSIONS); sm_$(CUDA_ARCHITECTURES),no)' python '$(PYTHON)' flags '$(compile)' libs '$(libs)'

print-%: ## show one variable of the Makefile
	@echo '$* = $($*)'

# ---- use -------------------------------------------------------------------------------------

.PHONY: demo smollm2 install
demo: all ## build, trace a small model, write an HTML report
	build/causa run configs/demo.yaml --overwrite
	build/causa report results/demo.h5

smollm2: ## fetch SmolLM2-135M-Instruct to build/models/smollm2.gguf
	@.make/smollm2.sh

install: all ## install the program, reports, library and headers below PREFIX
	install -D -m 755 build/causa $(DESTDIR)$(PREFIX)/bin/causa
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/causa/report $(wildcard src/report/*.py)
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib $(library)
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/include/causa $(headers)

# ---- tests -----------------------------------------------------------------------------------

.PHONY: check check-fast check-asan check-ubsan check-simt check-simt-coverage check-cuda-build check-gpu cuda-budget lint bench \
        bench-gpu
fast_tests := $(filter $(addprefix $(out)/tests/,unit/% parity/% gradient/%),$(tests))
# In two parts, which run at a time.
end_to_end := $(foreach part,[a-p] [q-z],--pytest '$(PYTHON)' '$(wildcard tests/e2e/test_$(part)*.py)')
lint       := $(PYTHON) tests/lint/lint.py --archive $(library) --compiler $(CC)
budget     := $(PYTHON) tests/lint/budget.py --nvcc $(NVCC) $(launchers:.o=.log)
by_cuda    := $(if $(launchers),--check budget '$(budget)')

check: all $(tests) $(replays) ## everything that a machine without a GPU can check
	@TEST_JOBS=$${TEST_JOBS:-2} .make/run-tests.sh --check lint '$(lint)' $(by_cuda) $(end_to_end) $(tests) $(replays)

check-fast: $(fast_tests) ## unit, parity and gradient tests
	@.make/run-tests.sh $(fast_tests)

# Thread pools of OpenMP and oneDNN live as long as the process, hence the suppressed leaks; tests
# ask for impossible sizes on purpose, so the allocator must answer as malloc does.
sanitizer_options := ASAN_OPTIONS=allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
                     LSAN_OPTIONS=suppressions=.make/lsan.txt:print_suppressions=0
check-asan check-ubsan: check-%: ## all C tests with a sanitizer
	@+$(MAKE) --no-print-directory VARIANT=$* check-c

check-simt: ## the CUDA backend on the CPU: known faults, parity and methods, in several orders, with sanitizers
	@+for variant in simt simt-asan simt-tsan; do \
	    $(MAKE) --no-print-directory VARIANT=$$variant simulated-tests || exit 1; done
	@tests/simt/check-simt.sh '$(PYTHON)'

check-simt-coverage: ## which lines and kernel instances of the CUDA backend the tests on the CPU run
	@+$(MAKE) --no-print-directory VARIANT=simt-gcov simulated-tests
	@tests/simt/check-coverage.sh '$(PYTHON)'

.PHONY: check-c
check-c: $(tests) $(replays)
	@$(sanitizer_options) TEST_SECONDS=900 .make/run-tests.sh $(tests) $(replays)

lint: $(library) ## layers, file lengths, licences, exported names, headers that stand alone
	@$(lint)

check-cuda-build: $(if $(launchers),all) ## kernels for all architectures within their budget; the program without a device
	@.make/run-tests.sh $(if $(launchers),$(by_cuda) --pytest '$(PYTHON)' tests/e2e/test_cuda.py,\
	    --skip check-cuda-build 'this build has no CUDA: nvcc and cuBLAS were not found')

cuda-budget: $(launchers) ## write kernels/budget.txt from what ptxas says now
	@$(budget) --write

# Everything that runs on a device; compute-sanitizer looks at the parity programs.
on_device := $(filter $(addprefix $(out)/tests/,parity/% method/%),$(tests))
check-gpu: all $(on_device) ## parity, method and end-to-end tests on a GPU, and compute-sanitizer
	@.make/check-gpu.sh '$(PYTHON)' $(on_device)

FUZZ_SECONDS ?= 60
.PHONY: fuzz fuzz-run
fuzz: ## fuzz every parser for FUZZ_SECONDS each (needs clang)
	@+$(MAKE) --no-print-directory VARIANT=fuzz fuzz-run

fuzzers := $(fuzz_sources:tests/fuzz/fuzz_%.c=build/fuzz/%)
$(fuzzers): build/fuzz/%: build/fuzz/tests/fuzz/fuzz_%.o $(library)
	@$(CC) $(link) -fsanitize=fuzzer $^ $(libs) -o $@

fuzz-run: $(fuzzers)
	@for name in $(notdir $(fuzzers)); do \
	    mkdir -p build/fuzz/found/$$name && echo "  FUZZ  $$name" && \
	    $(sanitizer_options) build/fuzz/$$name -max_total_time=$(FUZZ_SECONDS) \
	        -artifact_prefix=build/fuzz/$$name- build/fuzz/found/$$name tests/fuzz/corpus/$$name \
	        >build/fuzz/$$name.log 2>&1 || { tail -n 40 build/fuzz/$$name.log; exit 1; }; \
	    tail -n 1 build/fuzz/$$name.log; \
	done

bench: $(benches) ## measure passes, scopes, patching, edge attribution, operations and the tokenizer beside the machine's own peak
	@export GOMP_SPINCOUNT=3000; for program in executor scopes patch eap ops tokenizer; do echo "== $$program"; build/bench_$$program || exit 1; echo; done

bench-gpu: all build/bench_gpu build/bench_executor ## measure the kernels of a GPU beside its own copy and GEMM
	@build/bench_gpu && if build/causa plan configs/demo.yaml backend=cuda >/dev/null 2>&1; then build/bench_executor cuda; fi

# ---- upkeep ----------------------------------------------------------------------------------

.PHONY: format tidy clean help FORCE
format: ## clang-format every C and CUDA file
	clang-format -i $(shell find src include tests kernels -name '*.[ch]' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh')

tidy: ## clang-tidy's bug checks over src
	clang-tidy --quiet --checks='-*,bugprone-*,clang-analyzer-*,-bugprone-easily-swappable-parameters' \
	    $(sources) -- -std=c11 -D_GNU_SOURCE -Iinclude $(DEPS_CPPFLAGS)

clean: ## remove what was compiled; downloaded models and the Python stay
	rm -rf build/release build/asan build/ubsan build/fuzz build/simt* build/kernels build/causa build/bench_* build/deps.mk

help: ## show this list
	@awk -F ':.*## ' '/^[a-z][a-z0-9% -]*:.*## / { printf "  %-24s %s\n", $$1, $$2 }' Makefile

-include $(shell find $(out) build/kernels -name '*.d' 2>/dev/null)
