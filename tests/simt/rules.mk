# SPDX-License-Identifier: MIT
#
# How kernels are compiled for the CPU, and the program that checks the checks.

# Under the race checker only kernels are instrumented; the shim tells it what orders them. For
# coverage kernels and the host code that calls them are.
instrumented_simt-tsan := -O1 -fsanitize=thread
instrumented_simt-gcov := --coverage -fprofile-update=single
instrumented           := $(instrumented_$(VARIANT))
shim_sanitizer         := $(if $(filter simt-tsan,$(VARIANT)),-DSIMT_TSAN)
link                   += $(filter -fsanitize=% --coverage,$(instrumented))
ifeq ($(VARIANT),simt-gcov)
$(call object,$(filter src/backend/cuda/%,$(sources))): only += $(instrumented)
endif

cxx_flags := -std=c++17 -Iinclude -Ikernels -Itests/simt -DCA_SIMT -Wall -Wextra $(WERROR) \
             -Wno-unknown-pragmas $(variant_$(VARIANT)) $(CFLAGS)

$(out)/kernels/flags: FORCE
	$(call write_if_changed,$(call quoted,$(CXX) $(cxx_flags) $(instrumented) $(shim_sanitizer)))

$(out)/%.o: %.cu $(out)/kernels/flags
	@mkdir -p $(@D)
	@echo '  CXX   $<'
	@$(CXX) $(cxx_flags) $(instrumented) -MMD -MP -x c++ -c $< -o $@

$(out)/%.o: %.cc $(out)/kernels/flags
	@mkdir -p $(@D)
	@echo '  CXX   $<'
	@$(CXX) $(cxx_flags) $(shim_sanitizer) -MMD -MP -c $< -o $@

# Products are most of the time of a model.
$(out)/tests/simt/cublas.o: cxx_flags += -O3 -march=$(ARCH)

# Faults that must be caught, in a program without Causa.
canaries       := $(out)/tests/simt/check_canaries
kind_simt      := PLAIN
kind_simt-asan := ASAN
kind_simt-tsan := TSAN
kind_simt-gcov := PLAIN
$(canaries).o: only := -DCA_SIMT_BUILD=$(kind_$(VARIANT)) -Itests/simt
$(canaries): $(canaries).o $(out)/tests/simt/canaries.o $(simulated_libraries:%.cc=$(out)/%.o)
	@echo '  LINK  $@'
	@$(CXX) $(link) $^ $(CMOCKA_LIBS) -o $@

# What no operation uses yet, likewise.
nccl_checks := $(out)/tests/simt/check_nccl
$(nccl_checks).o: only := -Itests/simt
$(nccl_checks): $(nccl_checks).o $(simulated_libraries:%.cc=$(out)/%.o)
	@echo '  LINK  $@'
	@$(CXX) $(link) $^ $(CMOCKA_LIBS) -o $@

# Programs that run operations on every backend; under the sanitizers parity says all.
on_backends := $(addprefix parity/test_,products rows attention laws checks) \
               $(if $(filter simt simt-gcov,$(VARIANT)),gradient/test_rows gradient/test_attention \
                    $(patsubst tests/%.c,%,$(wildcard tests/method/test_*.c)))
with_program := $(filter-out simt-tsan,$(VARIANT))
.PHONY: simulated-tests
simulated-tests: $(canaries) $(nccl_checks) $(on_backends:%=$(out)/tests/%) $(if $(with_program),$(out)/causa)
