#!/bin/sh
# Direction of dependency, read from includes (docs: README "reading order"): tools -> client -> kernels -> ipc, and
# broker -> kernels -> ipc. Each third-party header lives in one file. Includes are root-relative.
set -u
failed=0
complain() { echo "layers: $*"; failed=1; }

# folder: folders it may include
may() {
    case $1 in
    ipc) echo "ipc" ;;
    kernels) echo "kernels ipc" ;;
    client) echo "client ipc" ;;
    broker) echo "broker kernels ipc" ;;
    tools) echo "tools client" ;;
    tools/worker | tools/profile) echo "tools client kernels ipc" ;;
    esac
}

includes() { grep -n '^#include "' "$1" | sed 's/^\([0-9]*\):#include "\([^"]*\)".*/\1 \2/'; }

for file in $(git ls-files '*.c' '*.h' | grep -E '^(ipc|kernels|client|broker|tools)/'); do
    folder=${file%%/*}
    case $file in tools/worker/*) folder=tools/worker ;; tools/profile/*) folder=tools/profile ;; esac
    allowed=$(may "$folder")
    includes "$file" | while read -r line path; do
        case $path in
        */*) ;;
        cairn*.h) continue ;; # the installed headers include each other by bare name
        *) echo "layers: $file:$line: include $path is not root-relative"; continue ;;
        esac
        top=${path%%/*} ok=no
        for a in $allowed; do [ "$a" = "$top" ] && ok=yes; done
        case $folder:$path in
        kernels:ipc/cairn_types.h | kernels:ipc/cairn_status.h | kernels:ipc/log.h | kernels:kernels/*) ;;
        kernels:ipc/cuda_driver.h) case $file in kernels/cuda/*) ;; *) ok=no ;; esac ;;
        kernels:ipc/hash.h) case $file in kernels/check.c | kernels/cuda/checksum.c) ;; *) ok=no ;; esac ;;
        kernels:*) ok=no ;;
        tools:client/cairn.h | tools:tools/worker/gguf.h | tools:tools/worker/quant.h) ;;
        tools:client/* | tools:tools/worker/* | tools:tools/profile/*) ok=no ;; # the CLI knows the public header only, and reads GGUF files
        tools/worker:client/cairn.h | tools/profile:client/cairn.h) ;;
        tools/worker:tools/profile/*) ok=no ;;
        tools/worker:client/* | tools/profile:client/*) ok=no ;;
        tools/*:ipc/cairn_status.h | tools/*:ipc/cairn_types.h | tools/*:ipc/log.h | tools/*:ipc/hash.h) ;;
        tools/worker:ipc/* | tools/profile:ipc/*) ok=no ;; # the example for engine authors gets no other way in
        esac
        [ $ok = yes ] || echo "layers: $file:$line: $folder must not include $path"
    done
done >"${TMPDIR:-/tmp}/check-layers.$$"
[ -s "${TMPDIR:-/tmp}/check-layers.$$" ] && failed=1
cat "${TMPDIR:-/tmp}/check-layers.$$"
rm -f "${TMPDIR:-/tmp}/check-layers.$$"

# header: files that may include it
while read -r header files; do
    for file in $(git grep -l "#include <$header>" -- '*.c' '*.h' ':!tests' ':!bench'); do
        case " $files " in
        *" $file "*) ;;
        *) complain "$file must not include <$header>; it belongs to $files" ;;
        esac
    done
done <<'END'
zmq.h ipc/chan.c
msgpack.h ipc/wire.c
xxhash.h ipc/hash.c
xxh_x86dispatch.h ipc/hash.c
liburing.h broker/spill_uring.c
lmdb.h broker/catalog.c
oneapi/dnnl/dnnl.h kernels/gemm_dnnl.c
dnnl.h kernels/gemm_dnnl.c
pcre2.h tools/worker/tokenizer.c
cblas.h tools/profile/linalg.c
lapacke.h tools/profile/linalg.c
cuda.h ipc/cuda_entry.h
cuda_runtime_api.h ipc/cuda_entry.h ipc/mem_cuda_ipc.c kernels/cuda/internal.h
cuda_runtime.h kernels/cuda/common.cuh
cublas_v2.h kernels/cuda/internal.h
jansson.h tools/json.c tools/worker/requests.c
END
exit $failed
