# SPDX-License-Identifier: MIT
#
# How kernels are compiled for the CPU, and the program that checks the checks.

# Under the race checker only kernels are instrumented; the shim tells it what orders them.
kernel_sanitizer := $(if $(filter simt-tsan,$(VARIANT)),-O1 -fsanitize=thread)
shim_sanitizer   := $(if $(filter simt-tsan,$(VARIANT)),-DSIMT_TSAN)
link             += $(filter -fsanitize=%,$(kernel_sanitizer))

cxx_flags := -std=c++17 -Iinclude -Ikernels -Itests/simt -DCA_SIMT -Wall -Wextra $(WERROR) \
             -Wno-unknown-pragmas $(variant_$(VARIANT)) $(CFLAGS)

$(out)/kernels/flags: FORCE
	$(call write_if_changed,$(call quoted,$(CXX) $(cxx_flags) $(kernel_sanitizer) $(shim_sanitizer)))

$(out)/%.o: %.cu $(out)/kernels/flags
	@mkdir -p $(@D)
	@echo '  CXX   $<'
	@$(CXX) $(cxx_flags) $(kernel_sanitizer) -MMD -MP -x c++ -c $< -o $@

$(out)/%.o: %.cc $(out)/kernels/flags
	@mkdir -p $(@D)
	@echo '  CXX   $<'
	@$(CXX) $(cxx_flags) $(shim_sanitizer) -MMD -MP -c $< -o $@

# Products are most of the time of a model.
$(out)/tests/simt/cublas.o: cxx_flags += -O3 -march=$(ARCH)
