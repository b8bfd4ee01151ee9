# Cairn. `make help` lists the targets. Sources are found by folder: a new .c file needs no change here.

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-14s %s\n",$$1,$$2}' $(MAKEFILE_LIST)
	@echo "variables: SAN=address,undefined|thread  CUDA=auto|0|1|emu  V=1  BUILD=dir  CFLAGS  PREFIX  DESTDIR  WERROR=0"

# --- configuration -------------------------------------------------------------------------------------------------
CC       = gcc
AR       = gcc-ar
V       ?= 0
Q        = $(if $(filter 1,$V),,@)
SAN     ?=
WERROR  ?= 1
CONFIG   = $(if $(SAN),san-$(firstword $(subst $(comma), ,$(SAN))),release)$(if $(filter 0,$(CUDA)),-nocuda)
comma   := ,
BUILD   ?= build/$(CONFIG)
PREFIX  ?= /usr/local
DESTDIR ?=
VERSION := 0.1.0
ABI     := 0

CFLAGS  ?= -O2 -g
WARN     = -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wconversion -Wpointer-arith -Wvla -Wundef \
           $(if $(filter 1,$(WERROR)),-Werror)
ALLFLAGS = -std=c11 -D_GNU_SOURCE -I. -Iipc -fPIC -fvisibility=hidden -fno-omit-frame-pointer -pthread -MMD -MP $(WARN) \
           -DCAIRN_VERSION='"$(VERSION)"' -DCAIRN_DATADIR='"$(PREFIX)/share/cairn"' \
           $(if $(SAN),-fsanitize=$(SAN) -fno-sanitize-recover=all) $(CFLAGS)
LDALL    = -pthread $(if $(SAN),-fsanitize=$(SAN)) $(LDFLAGS)

LIBS_IPC     = -lzmq -lmsgpackc -lxxhash $(CUDA_LIBS)
LIBS_KERNELS = -ldnnl -lgomp -lm
LIBS_BROKER  = -llmdb -luring
LIBS_WORKER  = -lpcre2-8 -ljansson
LIBS_TOOLS   = -ljansson
LIBS_PROFILE = -Wl,--as-needed -llapacke -lopenblas -Wl,--no-as-needed
LIBS_CHECK   = -lcheck_pic -lsubunit -lrt -lm

# --- CUDA: auto = when the toolkit is there; emu = `all` builds programs that run on the emulated device -----------
CUDA      ?= auto
CUDA_HOME ?= /usr/local/cuda
CUDA_ARCH ?= 80 90
NVCC       = $(CUDA_HOME)/bin/nvcc
CUDA_ON   := $(if $(SAN),,$(if $(filter 1,$(CUDA)),1,$(if $(filter auto emu,$(CUDA)),$(if $(wildcard $(NVCC)),1))))
EMU_ON    := $(if $(SAN),,$(if $(filter 0,$(CUDA)),,$(filter x86_64,$(shell uname -m))))
CUDA_NEWEST = $(lastword $(CUDA_ARCH))
NVCCFLAGS  = -std=c++17 -O3 -I. -Iipc -MMD -MP $(foreach a,$(CUDA_ARCH),-gencode arch=compute_$a,code=sm_$a) \
             -gencode arch=compute_$(CUDA_NEWEST),code=compute_$(CUDA_NEWEST) -Werror all-warnings \
             -Xcompiler -fPIC,-fvisibility=hidden,-fno-exceptions,-fno-rtti,-fno-threadsafe-statics
CUDA_LIBS  = $(if $(CUDA_ON),-L$(CUDA_HOME)/lib64 -lcudart_static -ldl -lrt)
CUDA_ONLY := $(wildcard ipc/cuda_*.c ipc/mem_cuda_*.c)
CUDA_SEES := ipc/mem.c kernels/kernels.c broker/device.c tools/worker/device.c
CUDA_SRC  := $(wildcard kernels/cuda/*.c kernels/cuda/*.cu)
EMU        = $(BUILD)/emu
emu_obj    = $(patsubst %.c,$(EMU)/obj/%.o,$(patsubst %.cu,$(EMU)/obj/%.cu.o,$1))
EMU_OBJ   := $(if $(EMU_ON),$(call emu_obj,$(wildcard tests/cuda_emu/*.c tests/cuda_emu/kernels/*.cu) $(CUDA_ONLY) $(CUDA_SEES) $(CUDA_SRC)))
EMU_CHECKS = $(EMU_TESTS) $(if $(EMU_ON),$(if $(CUDA_ON),$(EMU)/headers-agree))
GPU_TESTS := $(patsubst %.c,$(BUILD)/%,$(sort $(filter-out tests/cuda/emu_%,$(wildcard tests/cuda/*.c))))
EMU_TESTS := $(if $(EMU_ON),$(patsubst %.c,$(EMU)/%,$(sort $(wildcard tests/cuda/*.c))))

# --- sources -------------------------------------------------------------------------------------------------------
src          = $(sort $(wildcard $1/*.c))
obj          = $(patsubst %.c,$(BUILD)/obj/%.o,$1)
IPC_OBJ     := $(call obj,$(if $(CUDA_ON),$(call src,ipc),$(filter-out $(CUDA_ONLY),$(call src,ipc))))
KERNELS_OBJ := $(call obj,$(call src,kernels) $(if $(CUDA_ON),$(patsubst %.cu,%.cu.c,$(CUDA_SRC))))
CLIENT_OBJ  := $(call obj,$(call src,client))
BROKER_OBJ  := $(call obj,$(filter-out broker/main.c,$(call src,broker)))
WORKER_OBJ  := $(call obj,$(filter-out tools/worker/main.c,$(call src,tools/worker) $(call src,tools/worker/selectors)))
PROFILE_OBJ := $(call obj,$(filter-out tools/profile/main.c,$(call src,tools/profile)))
TOOLS_OBJ   := $(call obj,$(filter-out tools/cairn.c,$(call src,tools)))
SUPPORT_OBJ := $(call obj,$(if $(filter 0,$(CUDA)),$(filter-out tests/support/dev%,$(call src,tests/support)),$(call src,tests/support)))
UNIT_TESTS  := $(patsubst %.c,$(BUILD)/%,$(call src,tests/unit) $(call src,tests/kernels))
SYS_TESTS   := $(patsubst %.c,$(BUILD)/%,$(call src,tests/system))

LIBDIR       = $(BUILD)/lib
BINDIR       = $(BUILD)/bin
A_IPC        = $(LIBDIR)/libcrn_ipc.a
A_KERNELS    = $(LIBDIR)/libcrn_kernels.a
A_BROKER     = $(LIBDIR)/libcrn_broker.a
A_WORKER     = $(LIBDIR)/libcrn_worker.a
A_PROFILE    = $(LIBDIR)/libcrn_profile.a
A_TOOLS      = $(LIBDIR)/libcrn_tools.a
A_SUPPORT    = $(LIBDIR)/libcrn_support.a
A_CAIRN      = $(LIBDIR)/libcairn.a
SO_CAIRN     = $(LIBDIR)/libcairn.so.$(VERSION)
PROGRAMS_IN  = $(if $(wildcard broker/main.c),$1/cairnd) $(if $(wildcard tools/cairn.c),$1/cairn) \
               $(if $(wildcard tools/worker/main.c),$1/cairn-worker) $(if $(wildcard tools/profile/main.c),$1/cairn-profiler)
PROGRAMS     = $(call PROGRAMS_IN,$(if $(filter emu,$(CUDA)),$(EMU)/bin,$(BINDIR)))
HEADERS      = client/cairn.h ipc/cairn_status.h ipc/cairn_types.h
LIBRARIES    = $(if $(wildcard client/*.c),$(A_CAIRN) $(SO_CAIRN))

all: $(LIBRARIES) $(PROGRAMS) ## broker, library, worker, CLI

# --- rules ---------------------------------------------------------------------------------------------------------
$(BUILD)/obj/kernels/%.o: CFLAGS := $(if $(SAN),$(CFLAGS),$(filter-out -O2,$(CFLAGS)) -O3)

# Loops over rows that one thread was handed: no thread meets another in them, and instrumented they take all the time there is.
LEAVES = $(patsubst %.c,$(BUILD)/obj/%.o,kernels/ref.c $(wildcard kernels/simd_*.c) tools/worker/quant.c)
$(LEAVES): LEAF = $(if $(filter thread,$(SAN)),-fno-sanitize=thread)
$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(if $(Q),@echo "  CC    $<")
	$(Q)$(CC) $(ALLFLAGS) $(LEAF) -c $< -o $@

ifneq ($(CUDA_ON),)
$(call obj,$(CUDA_SEES) $(CUDA_ONLY)) $(BUILD)/obj/kernels/cuda/%.o: ALLFLAGS += -DCRN_CUDA -isystem $(CUDA_HOME)/include
endif
$(BUILD)/obj/%.cu.o: %.cu
	@mkdir -p $(@D)
	$(if $(Q),@echo "  NVCC  $<")
	$(Q)$(NVCC) $(NVCCFLAGS) -MF $(@:.o=.d) -c $< -o $@

define archive
	@mkdir -p $(@D)
	$(if $(Q),@echo "  AR    $(@F)")
	$(Q)rm -f $@ && $(AR) rcs $@ $^
endef
define link
	@mkdir -p $(@D)
	$(if $(Q),@echo "  LD    $(@F)")
	$(Q)$(CC) $(LDALL) -o $@ $(filter %.o %.a,$^) $1
endef

# The emulated build: what sees CUDA is compiled against tests/cuda_emu/include and linked before the archives.
EMUFLAGS = -DCRN_CUDA -DCRN_CUBLAS=NULL -Itests/cuda_emu/include
$(EMU)/obj/tests/%.o: EMUFLAGS += -fvisibility=default
$(EMU)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(if $(Q),@echo "  CC    $< (emulated)")
	$(Q)$(CC) $(ALLFLAGS) $(EMUFLAGS) -c $< -o $@
$(EMU)/obj/%.cu.o: %.cu
	@mkdir -p $(@D)
	$(if $(Q),@echo "  CXX   $< (emulated)")
	$(Q)g++ -std=c++17 -D_GNU_SOURCE -x c++ -I. -Iipc -Itests/cuda_emu/include -O2 -g -fPIC -fvisibility=hidden -fno-exceptions \
	    -fno-rtti -fno-threadsafe-statics -ffp-contract=off -Wall -Wextra -Wshadow $(if $(filter 1,$(WERROR)),-Werror) -MMD -MP \
	    $(if $(SAN),-fsanitize=$(SAN) -fno-sanitize-recover=all) -c $< -o $@

$(A_IPC): $(IPC_OBJ)             ; $(archive)
$(A_KERNELS): $(KERNELS_OBJ)     ; $(archive)
$(A_BROKER): $(BROKER_OBJ)       ; $(archive)
$(A_WORKER): $(WORKER_OBJ)       ; $(archive)
$(A_PROFILE): $(PROFILE_OBJ)     ; $(archive)
$(A_TOOLS): $(TOOLS_OBJ)         ; $(archive)
$(A_SUPPORT): $(SUPPORT_OBJ)     ; $(archive)
$(A_CAIRN): $(CLIENT_OBJ) $(IPC_OBJ) ; $(archive)

$(SO_CAIRN): $(CLIENT_OBJ) $(IPC_OBJ) client/cairn.map
	@mkdir -p $(@D)
	$(if $(Q),@echo "  LD    $(@F)")
	$(Q)$(CC) $(LDALL) -shared -Wl,-soname,libcairn.so.$(ABI) -Wl,--version-script=client/cairn.map -Wl,--no-undefined \
	    -o $@ $(filter %.o,$^) $(LIBS_IPC)
	$(Q)ln -sf $(@F) $(LIBDIR)/libcairn.so.$(ABI) && ln -sf libcairn.so.$(ABI) $(LIBDIR)/libcairn.so

$(BINDIR)/cairnd: $(BUILD)/obj/broker/main.o $(A_BROKER) $(A_KERNELS) $(A_IPC)
	$(call link,$(LIBS_BROKER) $(LIBS_KERNELS) $(LIBS_IPC))
$(BINDIR)/cairn: $(BUILD)/obj/tools/cairn.o $(A_TOOLS) $(BUILD)/obj/tools/worker/gguf.o $(BUILD)/obj/tools/worker/quant.o $(A_CAIRN)
	$(call link,$(LIBS_TOOLS) $(LIBS_IPC) -lm)
$(BINDIR)/cairn-worker: $(BUILD)/obj/tools/worker/main.o $(A_WORKER) $(A_TOOLS) $(A_CAIRN) $(A_KERNELS) $(A_IPC)
	$(call link,$(LIBS_WORKER) $(LIBS_KERNELS) $(LIBS_IPC))
$(BINDIR)/cairn-profiler: $(BUILD)/obj/tools/profile/main.o $(A_PROFILE) $(A_WORKER) $(A_TOOLS) $(A_CAIRN) $(A_KERNELS) $(A_IPC)
	$(call link,$(LIBS_PROFILE) $(LIBS_WORKER) $(LIBS_KERNELS) $(LIBS_IPC))

EMULIBS = -rdynamic -ldl
$(EMU)/bin/cairnd: $(BUILD)/obj/broker/main.o $(filter-out %/tools/worker/device.o,$(EMU_OBJ)) $(A_BROKER) $(A_KERNELS) $(A_IPC)
	$(call link,$(EMULIBS) $(LIBS_BROKER) $(LIBS_KERNELS) $(LIBS_IPC))
$(EMU)/bin/cairn: $(BINDIR)/cairn
	@mkdir -p $(@D) && ln -sf ../../bin/cairn $@
$(EMU)/bin/cairn-profiler: $(BINDIR)/cairn-profiler
	@mkdir -p $(@D) && ln -sf ../../bin/cairn-profiler $@
$(EMU)/bin/cairn-worker: $(BUILD)/obj/tools/worker/main.o $(filter-out %/broker/device.o,$(EMU_OBJ)) $(A_WORKER) $(A_TOOLS) $(A_CAIRN) $(A_KERNELS) $(A_IPC)
	$(call link,$(EMULIBS) $(LIBS_WORKER) $(LIBS_KERNELS) $(LIBS_IPC))
TEST_LIBS = $(A_SUPPORT) $(if $(PROFILE_OBJ),$(A_PROFILE)) $(if $(TOOLS_OBJ),$(A_TOOLS)) $(if $(WORKER_OBJ),$(A_WORKER)) $(if $(BROKER_OBJ),$(A_BROKER)) \
            $(if $(CLIENT_OBJ),$(A_CAIRN)) $(if $(KERNELS_OBJ),$(A_KERNELS)) $(A_IPC)
$(BUILD)/tests/%: $(BUILD)/obj/tests/%.o $(TEST_LIBS)
	$(call link,$(LIBS_BROKER) $(LIBS_PROFILE) $(LIBS_WORKER) $(if $(KERNELS_OBJ),$(LIBS_KERNELS)) $(LIBS_IPC) $(LIBS_CHECK))

$(addprefix $(EMU)/tests/cuda/,share tier worker exact smollm): | $(addprefix $(EMU)/bin/,cairnd cairn cairn-worker)
GPU_NAMES   = gpu_prefill gpu_attach gpu_tiers gpu_batch
EMU_BENCHES = $(addprefix $(EMU)/bench/,$(GPU_NAMES))
$(EMU)/tests/cuda/emu_bench: | $(EMU_BENCHES) $(EMU)/bin/cairnd
$(EMU)/tests/%: $(EMU)/obj/tests/%.o $(EMU_OBJ) $(TEST_LIBS)
	$(call link,$(EMULIBS) $(LIBS_BROKER) $(LIBS_WORKER) $(LIBS_KERNELS) $(LIBS_IPC) $(LIBS_CHECK))

# Names and values of the emulator's headers are those of the toolkit, and so are the prototypes of what it implements.
EMU_C := $(wildcard tests/cuda_emu/*.c)
$(EMU)/headers-agree: tests/cuda/headers/constants.c $(EMU_C) $(wildcard tests/cuda_emu/include/*.h)
	@mkdir -p $(@D)
	$(Q)for i in tests/cuda_emu/include $(CUDA_HOME)/include; do $(CC) -std=c11 -isystem $$i -o $@.run $< && ./$@.run >$@.$$(basename $$(dirname $$i)) \
	    || exit 1; done; rm -f $@.run; cmp $@.cuda_emu $@.$(notdir $(CUDA_HOME))
	$(Q)for f in $(EMU_C); do $(CC) -std=c11 -D_GNU_SOURCE -I. -isystem $(CUDA_HOME)/include -isystem tests/cuda_emu/include \
	    -Wall -Werror -fsyntax-only $$f || exit 1; done; touch $@

BENCH_LIBS = $(filter-out $(A_SUPPORT),$(TEST_LIBS))
BENCH_OBJ  = $(call obj,bench/common.c bench/host.c $(wildcard bench/peer_*.c))
GPU_OBJ    = $(call obj,bench/gpu.c)
$(BUILD)/bench/%: $(BUILD)/obj/bench/%.o $(BENCH_OBJ) $(BENCH_LIBS)
	$(call link,$(LIBS_BROKER) $(LIBS_WORKER) $(if $(KERNELS_OBJ),$(LIBS_KERNELS)) $(LIBS_IPC))
$(BUILD)/bench/gpu_%: $(BUILD)/obj/bench/gpu_%.o $(GPU_OBJ) $(BENCH_OBJ) $(BENCH_LIBS)
	$(call link,$(LIBS_BROKER) $(LIBS_WORKER) $(LIBS_KERNELS) $(LIBS_IPC))
$(EMU)/bench/gpu_%: $(BUILD)/obj/bench/gpu_%.o $(GPU_OBJ) $(BENCH_OBJ) $(EMU_OBJ) $(BENCH_LIBS)
	$(call link,$(EMULIBS) $(LIBS_BROKER) $(LIBS_WORKER) $(LIBS_KERNELS) $(LIBS_IPC))

# A broker that can be told to die at named places (broker/crash.h); tests only.
CRASH_OBJ   := $(patsubst %.c,$(BUILD)/crash/%.o,$(call src,broker))
$(BUILD)/crash/%.o: %.c
	@mkdir -p $(@D)
	$(if $(Q),@echo "  CC    $< (crash points)")
	$(Q)$(CC) $(ALLFLAGS) -DCRN_CRASH_POINTS -c $< -o $@
$(BUILD)/tests/cairnd-crash: $(CRASH_OBJ) $(A_KERNELS) $(A_IPC)
	$(call link,$(LIBS_BROKER) $(LIBS_KERNELS) $(LIBS_IPC))
$(BUILD)/tests/system/sys_crash_matrix: | $(BUILD)/tests/cairnd-crash $(BINDIR)/cairnd

# --- tests ---------------------------------------------------------------------------------------------------------
JOBS = $(if $(filter -j%,$(MAKEFLAGS)),,-j$(shell nproc))

deps: ## install what is missing from Debian 12
	$(Q)tools/dev/install-deps.sh
model: deps ## fetch the model (SHA-256 checked, resumable)
	$(Q)tools/dev/fetch-model.sh

demo: model ## two siblings of a real model answer questions with one shared cache
	$(Q)$(MAKE) --no-print-directory $(JOBS) all
	$(Q)tools/dev/demo.sh $(BINDIR)

# README.md quotes docs/example.c, and it is built against what `install` makes, through pkg-config, as a user would.
docs: $(BINDIR)/cairn-example ## check that the example of the README is the one that compiles
	$(Q)tools/dev/check-readme.sh README.md docs/example.c
STAGE = $(abspath $(BUILD)/stage)
$(BINDIR)/cairn-example: docs/example.c client/cairn.pc.in $(LIBRARIES) $(PROGRAMS) $(HEADERS)
	$(Q)rm -rf $(STAGE) && $(MAKE) -s install DESTDIR= PREFIX=$(STAGE)
	$(if $(Q),@echo "  CC    $<")
	$(Q)$(CC) -std=c11 $(WARN) $(LDALL) -o $@ $< -Wl,-rpath,$(STAGE)/lib \
	    $$(PKG_CONFIG_PATH=$(STAGE)/lib/pkgconfig pkg-config --cflags --libs cairn)

check: model ## build and run all tests but the long system tests
	$(Q)$(MAKE) --no-print-directory $(JOBS) run-check
run-check: all $(BINDIR)/cairn-example $(UNIT_TESTS) $(SYS_TESTS) $(EMU_CHECKS)
	$(Q)CRN_BIN=$(BINDIR) tools/dev/run-tests.sh $(UNIT_TESTS) $(SYS_TESTS) $(EMU_TESTS)
check-system: model ## the long runs: kills, full disks, many seeds
	$(Q)CRN_LONG=1 $(MAKE) --no-print-directory $(JOBS) run-check
SLOW = CRN_TEST_TIMEOUT=2400 CRN_TEST_LIMIT=7200
san: ## `check` under AddressSanitizer and UndefinedBehaviorSanitizer
	$(Q)$(SLOW) $(MAKE) --no-print-directory SAN=address,undefined check
tsan: ## `check` under ThreadSanitizer
	$(Q)$(SLOW) TSAN_OPTIONS="suppressions=$(CURDIR)/tests/tsan.supp $$TSAN_OPTIONS" $(MAKE) --no-print-directory SAN=thread check

run-emu: $(EMU_CHECKS) ## the tests of the GPU path on the emulated device alone
	$(Q)CRN_BIN=$(BINDIR) tools/dev/run-tests.sh $(EMU_TESTS)
check-gpu: ## the tests of the GPU path on a real device; a device or toolkit that is missing fails, a skip fails too
	$(Q)[ -n "$(CUDA_ON)" ] || { echo "check-gpu: no CUDA toolkit in $(CUDA_HOME), or CUDA=0, or SAN set"; exit 1; }
	$(Q)$(MAKE) --no-print-directory run-gpu
run-gpu: $(GPU_TESTS) $(addprefix $(BINDIR)/,cairnd cairn cairn-worker)
	$(Q)CRN_GPU=real CRN_BIN=$(BINDIR) tools/dev/run-tests.sh $(GPU_TESTS)

FUZZ_SECONDS ?= 20
fuzz: $(patsubst tests/fuzz/%.c,build/fuzz/%,$(call src,tests/fuzz)) ## each parser under libFuzzer (clang) for FUZZ_SECONDS
	$(Q)for f in $^; do mkdir -p $$f.corpus && $$f -seed=1 -max_total_time=$(FUZZ_SECONDS) -max_len=4096 \
	    -use_value_profile=1 -print_final_stats=1 -verbosity=0 -artifact_prefix=$$f. $$f.corpus || exit 1; done
build/fuzz/%: tests/fuzz/%.c $(filter-out $(CUDA_ONLY),$(call src,ipc))
	@mkdir -p $(@D)
	$(Q)clang -std=c11 -D_GNU_SOURCE -I. -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
	    -o $@ $^ $(LIBS_IPC) -pthread

# --- lint ----------------------------------------------------------------------------------------------------------
lint: $(LIBRARIES) ## layers, headers alone, exported symbols, banned calls, function lengths, shell scripts, man pages
	$(Q)for check in layers headers symbols banned lengths man; do \
	    tools/dev/check-$$check.sh $(LIBDIR) || failed=1; done; [ -z "$$failed" ]

# --- installation --------------------------------------------------------------------------------------------------
ROOT       = $(DESTDIR)$(PREFIX)
FAMILY     = $(wildcard share/family/*.gguf)
PLANS      = $(wildcard share/family/plans/*)
install: all ## programs, library, headers, pkg-config file, siblings; honours PREFIX and DESTDIR
	$(Q)install -d $(addprefix $(ROOT)/,bin lib/pkgconfig include share/cairn/family/plans share/man/man1 \
	    share/man/man3 share/man/man7 share/bash-completion/completions)
	$(Q)install -m 755 $(PROGRAMS) $(ROOT)/bin
	$(Q)install -m 644 $(A_CAIRN) $(ROOT)/lib
	$(Q)install -m 755 $(SO_CAIRN) $(ROOT)/lib
	$(Q)ln -sf $(notdir $(SO_CAIRN)) $(ROOT)/lib/libcairn.so.$(ABI)
	$(Q)ln -sf libcairn.so.$(ABI) $(ROOT)/lib/libcairn.so
	$(Q)install -m 644 $(HEADERS) $(ROOT)/include
	$(Q)sed 's|@PREFIX@|$(PREFIX)|; s|@VERSION@|$(VERSION)|; s|@CUDA_LIBS@|$(CUDA_LIBS)|' client/cairn.pc.in >$(ROOT)/lib/pkgconfig/cairn.pc
	$(Q)install -m 644 $(FAMILY) $(ROOT)/share/cairn/family
	$(Q)install -m 644 $(PLANS) $(ROOT)/share/cairn/family/plans
	$(Q)for page in docs/man/*.[137]; do install -m 644 $$page $(ROOT)/share/man/man$${page##*.}; done
	$(Q)install -m 644 share/completions/cairn $(ROOT)/share/bash-completion/completions

BENCH_BIN    = $(BUILD)/bench
BENCH_PYTHON = $(firstword $(wildcard build/bench/venv/bin/python) python3)
bench: bench-attach bench-publish bench-prefill bench-ttft bench-agents bench-decode bench-spill bench-profile ## all benchmarks; CAIRN_BENCH_QUICK=1: short
	$(Q)$(BENCH_PYTHON) tools/dev/bench-report.py
bench-deps: ## what the benchmarks compare with: redis, fio, llama.cpp (NATIVE=1: also built here), Mooncake, matplotlib; GPU=1: transformers
	$(Q)NATIVE=$(NATIVE) GPU=$(GPU) tools/dev/bench-deps.sh
bench-attach: all $(BENCH_BIN)/attach ## attach against a raw ZeroMQ round trip
	$(Q)CRN_BIN=$(BINDIR) $(BENCH_BIN)/attach
	$(Q)$(BENCH_PYTHON) tools/dev/bench-plot.py attach
bench-publish: all $(BENCH_BIN)/publish model ## hand-over of 1 GiB against Redis, LMDB, memfd; the publisher's own delay
	$(Q)CRN_BIN=$(BINDIR) $(BENCH_BIN)/publish
	$(Q)$(BENCH_PYTHON) tools/dev/bench_mooncake.py
	$(Q)CRN_BIN=$(BINDIR) $(BENCH_PYTHON) tools/dev/bench-worker.py delay
	$(Q)$(BENCH_PYTHON) tools/dev/bench-plot.py publish
bench-spill: all $(BENCH_BIN)/spill $(BENCH_BIN)/spill_catalog model ## NVMe: rates against fio, first token from it, 10^5 entries on it
	$(Q)$(BENCH_BIN)/spill
	$(Q)CRN_BIN=$(BINDIR) $(BENCH_BIN)/spill_catalog
	$(Q)CRN_BIN=$(BINDIR) $(BENCH_PYTHON) tools/dev/bench-worker.py spill
	$(Q)$(BENCH_PYTHON) tools/dev/bench-plot.py spill
bench-prefill: ## prefill tokens/s against llama.cpp
bench-ttft: ## a sibling's first token against its own full prefill
bench-agents: ## 4 and 8 agents about 6 contexts, with and without sharing; KV bytes
bench-decode: ## decode tokens/s against llama.cpp; 16 questions together and one by one
bench-prefill bench-ttft bench-agents bench-decode: bench-%: all model
	$(Q)CRN_BIN=$(BINDIR) $(BENCH_PYTHON) tools/dev/bench-worker.py $*
	$(Q)$(BENCH_PYTHON) tools/dev/bench-plot.py $*
# On a device: real, or with CUDA=emu the emulated one, where every program runs through at toy size and refuses to print timings.
GPU_BENCHES  = $(if $(filter emu,$(CUDA)),$(EMU_BENCHES),$(addprefix $(BUILD)/bench/,$(GPU_NAMES)))
GPU_BENCH_IN = $(dir $(firstword $(GPU_BENCHES)))
bench-gpu: ## on a GPU: prefill against transformers, attach by memory kind, tiers over PCIe, batches; CUDA=emu: a trial run, no figures
	$(Q)[ -n "$(if $(filter emu,$(CUDA)),$(EMU_ON),$(CUDA_ON))" ] || { echo "bench-gpu: no CUDA toolkit in $(CUDA_HOME), or CUDA=0, or SAN set"; exit 1; }
	$(Q)$(MAKE) --no-print-directory run-bench-gpu
run-bench-gpu: all $(GPU_BENCHES)
	$(Q)CRN_BIN=$(if $(filter emu,$(CUDA)),$(EMU)/bin,$(BINDIR)) CRN_GPU_BENCH=$(GPU_BENCH_IN) tools/dev/bench-gpu.sh
bench-profile: all model $(BENCH_BIN)/kernels $(BENCH_BIN)/publish ## where the time goes (perf), and what the machine can do at most
	$(Q)CRN_BIN=$(BINDIR) $(BENCH_PYTHON) tools/dev/bench-profile.py

report: ## docs/quality.md from docs/data/quality (measured by tools/family/pairs.py, evaluate.py and compare_selectors.py)
	$(Q)tools/dev/selectors-report.py
	$(Q)tools/dev/quality-report.py

clean: ## remove everything built
	rm -rf build

-include $(shell [ -d $(BUILD) ] && find $(BUILD) -name '*.d')
.PHONY: bench-gpu run-bench-gpu report bench bench-deps bench-profile bench-attach bench-publish bench-spill bench-prefill bench-ttft bench-agents bench-decode help all deps model demo docs check run-check run-emu check-gpu run-gpu check-system san tsan fuzz lint install clean
.SECONDARY:
