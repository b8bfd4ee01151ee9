# Cairn. `make help` lists the targets. Sources are found by folder: a new .c file needs no change here.

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-14s %s\n",$$1,$$2}' $(MAKEFILE_LIST)
	@echo "variables: SAN=address,undefined|thread  V=1  BUILD=dir  CFLAGS  PREFIX  DESTDIR  WERROR=0"

# --- configuration -------------------------------------------------------------------------------------------------
CC       = gcc
AR       = gcc-ar
V       ?= 0
Q        = $(if $(filter 1,$V),,@)
SAN     ?=
WERROR  ?= 1
CONFIG   = $(if $(SAN),san-$(firstword $(subst $(comma), ,$(SAN))),release)
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

LIBS_IPC     = -lzmq -lmsgpackc -lxxhash
LIBS_KERNELS = -ldnnl -lgomp -lm
LIBS_BROKER  = -llmdb -luring
LIBS_WORKER  = -lpcre2-8 -ljansson
LIBS_TOOLS   = -ljansson
LIBS_CHECK   = -lcheck_pic -lsubunit -lrt -lm

# --- sources -------------------------------------------------------------------------------------------------------
src          = $(sort $(wildcard $1/*.c))
obj          = $(patsubst %.c,$(BUILD)/obj/%.o,$1)
IPC_OBJ     := $(call obj,$(call src,ipc))
KERNELS_OBJ := $(call obj,$(call src,kernels))
CLIENT_OBJ  := $(call obj,$(call src,client))
BROKER_OBJ  := $(call obj,$(filter-out broker/main.c,$(call src,broker)))
WORKER_OBJ  := $(call obj,$(filter-out tools/worker/main.c,$(call src,tools/worker)))
TOOLS_OBJ   := $(call obj,$(filter-out tools/cairn.c,$(call src,tools)))
SUPPORT_OBJ := $(call obj,$(call src,tests/support))
UNIT_TESTS  := $(patsubst %.c,$(BUILD)/%,$(call src,tests/unit) $(call src,tests/kernels))
SYS_TESTS   := $(patsubst %.c,$(BUILD)/%,$(call src,tests/system))

LIBDIR       = $(BUILD)/lib
BINDIR       = $(BUILD)/bin
A_IPC        = $(LIBDIR)/libcrn_ipc.a
A_KERNELS    = $(LIBDIR)/libcrn_kernels.a
A_BROKER     = $(LIBDIR)/libcrn_broker.a
A_WORKER     = $(LIBDIR)/libcrn_worker.a
A_TOOLS      = $(LIBDIR)/libcrn_tools.a
A_SUPPORT    = $(LIBDIR)/libcrn_support.a
A_CAIRN      = $(LIBDIR)/libcairn.a
SO_CAIRN     = $(LIBDIR)/libcairn.so.$(VERSION)
PROGRAMS     = $(if $(wildcard broker/main.c),$(BINDIR)/cairnd) $(if $(wildcard tools/cairn.c),$(BINDIR)/cairn) \
               $(if $(wildcard tools/worker/main.c),$(BINDIR)/cairn-worker)
HEADERS      = client/cairn.h ipc/cairn_status.h ipc/cairn_types.h
LIBRARIES    = $(if $(wildcard client/*.c),$(A_CAIRN) $(SO_CAIRN))

all: $(LIBRARIES) $(PROGRAMS) ## broker, library, worker, CLI

# --- rules ---------------------------------------------------------------------------------------------------------
$(BUILD)/obj/kernels/%.o: CFLAGS := $(filter-out -O2,$(CFLAGS)) -O3

$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(if $(Q),@echo "  CC    $<")
	$(Q)$(CC) $(ALLFLAGS) -c $< -o $@

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

$(A_IPC): $(IPC_OBJ)             ; $(archive)
$(A_KERNELS): $(KERNELS_OBJ)     ; $(archive)
$(A_BROKER): $(BROKER_OBJ)       ; $(archive)
$(A_WORKER): $(WORKER_OBJ)       ; $(archive)
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

TEST_LIBS = $(A_SUPPORT) $(if $(TOOLS_OBJ),$(A_TOOLS)) $(if $(WORKER_OBJ),$(A_WORKER)) $(if $(BROKER_OBJ),$(A_BROKER)) \
            $(if $(CLIENT_OBJ),$(A_CAIRN)) $(if $(KERNELS_OBJ),$(A_KERNELS)) $(A_IPC)
$(BUILD)/tests/%: $(BUILD)/obj/tests/%.o $(TEST_LIBS)
	$(call link,$(LIBS_BROKER) $(LIBS_WORKER) $(if $(KERNELS_OBJ),$(LIBS_KERNELS)) $(LIBS_IPC) $(LIBS_CHECK))

BENCH_LIBS = $(filter-out $(A_SUPPORT),$(TEST_LIBS))
BENCH_OBJ  = $(call obj,bench/common.c bench/host.c $(wildcard bench/peer_*.c))
$(BUILD)/bench/%: $(BUILD)/obj/bench/%.o $(BENCH_OBJ) $(BENCH_LIBS)
	$(call link,$(LIBS_BROKER) $(LIBS_WORKER) $(if $(KERNELS_OBJ),$(LIBS_KERNELS)) $(LIBS_IPC))

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
run-check: all $(BINDIR)/cairn-example $(UNIT_TESTS) $(SYS_TESTS)
	$(Q)CRN_BIN=$(BINDIR) tools/dev/run-tests.sh $(UNIT_TESTS) $(SYS_TESTS)
check-system: model ## the long runs: kills, full disks, many seeds
	$(Q)CRN_LONG=1 $(MAKE) --no-print-directory $(JOBS) run-check
san: ## `check` under AddressSanitizer and UndefinedBehaviorSanitizer
	$(Q)$(MAKE) --no-print-directory SAN=address,undefined check
tsan: ## `check` under ThreadSanitizer
	$(Q)TSAN_OPTIONS="suppressions=$(CURDIR)/tests/tsan.supp $$TSAN_OPTIONS" $(MAKE) --no-print-directory SAN=thread check

FUZZ_SECONDS ?= 20
fuzz: $(patsubst tests/fuzz/%.c,build/fuzz/%,$(call src,tests/fuzz)) ## each parser under libFuzzer (clang) for FUZZ_SECONDS
	$(Q)for f in $^; do mkdir -p $$f.corpus && $$f -seed=1 -max_total_time=$(FUZZ_SECONDS) -max_len=4096 \
	    -use_value_profile=1 -print_final_stats=1 -verbosity=0 -artifact_prefix=$$f. $$f.corpus || exit 1; done
build/fuzz/%: tests/fuzz/%.c $(call src,ipc)
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
	$(Q)sed 's|@PREFIX@|$(PREFIX)|; s|@VERSION@|$(VERSION)|' client/cairn.pc.in >$(ROOT)/lib/pkgconfig/cairn.pc
	$(Q)install -m 644 $(FAMILY) $(ROOT)/share/cairn/family
	$(Q)install -m 644 $(PLANS) $(ROOT)/share/cairn/family/plans
	$(Q)for page in docs/man/*.[137]; do install -m 644 $$page $(ROOT)/share/man/man$${page##*.}; done
	$(Q)install -m 644 share/completions/cairn $(ROOT)/share/bash-completion/completions

BENCH_BIN    = $(BUILD)/bench
BENCH_PYTHON = $(firstword $(wildcard build/bench/venv/bin/python) python3)
bench: bench-attach bench-publish bench-prefill bench-ttft bench-agents bench-decode ## all benchmarks; CAIRN_BENCH_QUICK=1: short
	$(Q)$(BENCH_PYTHON) tools/dev/bench-report.py
bench-deps: ## what the benchmarks compare with: redis, llama.cpp (xllamacpp), matplotlib
	$(Q)tools/dev/bench-deps.sh
bench-attach: all $(BENCH_BIN)/attach ## attach against a raw ZeroMQ round trip
	$(Q)CRN_BIN=$(BINDIR) $(BENCH_BIN)/attach
	$(Q)$(BENCH_PYTHON) tools/dev/bench-plot.py attach
bench-publish: all $(BENCH_BIN)/publish model ## hand-over of 1 GiB against Redis, LMDB, memfd; the publisher's own delay
	$(Q)CRN_BIN=$(BINDIR) $(BENCH_BIN)/publish
	$(Q)CRN_BIN=$(BINDIR) $(BENCH_PYTHON) tools/dev/bench-worker.py delay
	$(Q)$(BENCH_PYTHON) tools/dev/bench-plot.py publish
bench-prefill: ## prefill tokens/s against llama.cpp
bench-ttft: ## a sibling's first token against its own full prefill
bench-agents: ## 4 and 8 agents about 6 contexts, with and without sharing; KV bytes
bench-decode: ## decode tokens/s against llama.cpp; 16 questions together and one by one
bench-prefill bench-ttft bench-agents bench-decode: bench-%: all model
	$(Q)CRN_BIN=$(BINDIR) $(BENCH_PYTHON) tools/dev/bench-worker.py $*
	$(Q)$(BENCH_PYTHON) tools/dev/bench-plot.py $*

clean: ## remove everything built
	rm -rf build

-include $(shell [ -d $(BUILD) ] && find $(BUILD) -name '*.d')
.PHONY: bench bench-deps bench-attach bench-publish bench-prefill bench-ttft bench-agents bench-decode help all deps model demo docs check run-check check-system san tsan fuzz lint install clean
.SECONDARY:
