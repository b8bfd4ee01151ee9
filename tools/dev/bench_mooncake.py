"""The hand-over of bench/publish by Mooncake's store (its CPU wheel, TCP on this host): a peer of group "publish".

usage: bench_mooncake.py            runs a master and two workers; a no-op when the wheel is not installed (make bench-deps)
       bench_mooncake.py A|B PORT   a worker: A makes and puts layers, B gets them; both register their memory once

The same definition as there: time runs from the moment A's last layer is complete in A's memory until B has all bytes in its own
memory. B compares every layer. Runs in build/bench/venv.
"""
import json
import os
import subprocess
import sys
import time

LAYERS = 32


def worker(role, port):
    import numpy
    from mooncake.store import MooncakeDistributedStore
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    layer = (4 if os.environ.get("CAIRN_BENCH_QUICK", "0") not in ("", "0") else 32) << 20
    store, memory = MooncakeDistributedStore(), numpy.zeros((LAYERS, layer // 8), dtype=numpy.uint64)
    segment = 2 * LAYERS * layer if role == "A" else 16 << 20
    if store.setup("127.0.0.1", "P2PHANDSHAKE", segment, 64 << 20, "tcp", "", f"127.0.0.1:{port}") != 0:
        raise SystemExit("mooncake: setup failed")
    if store.register_buffer(memory.ctypes.data, memory.nbytes) != 0:
        raise SystemExit("mooncake: register_buffer failed")
    steps = numpy.arange(layer // 8, dtype=numpy.uint64)

    def content(number, at):
        return steps * numpy.uint64(2654435761) + numpy.uint64(1000 * number + at)

    def put(number, at):
        if store.put_from(f"{number}-{at}", memory[at].ctypes.data, layer) != 0:
            raise SystemExit("mooncake: put failed")

    def run(order):
        number, streamed = order["number"], order["streamed"]
        if role == "A":
            for at in range(LAYERS):
                memory[at] = content(number, at)
                complete = time.monotonic()
                if streamed:
                    put(number, at)
            for at in range(LAYERS if streamed else 0, LAYERS):
                put(number, at)
            return complete
        for at in range(LAYERS):
            if store.get_into(f"{number}-{at}", memory[at].ctypes.data, layer) != layer:
                raise SystemExit("mooncake: get failed")
        end = time.monotonic()
        for at in range(LAYERS):
            if not numpy.array_equal(memory[at], content(number, at)):
                raise SystemExit("mooncake: contents differ")
        time.sleep(1.2)  # what was read is leased for a second
        for at in range(LAYERS):
            if store.remove(f"{number}-{at}") != 0:
                raise SystemExit("mooncake: remove failed")
        return end

    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        answers.write(json.dumps(run(json.loads(line))) + "\n")
        answers.flush()
    answers.close()
    os._exit(0)  # its destructors wait for a master that may be gone


def ask(process, order):
    process.stdin.write(json.dumps(order) + "\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise SystemExit("bench: a Mooncake worker ended")
    return json.loads(line)


def main():
    import bench_common as bench
    python, port = bench.VENV_PYTHON, str(20000 + os.getpid() % 20000)
    found = subprocess.run([python, "-c", "import mooncake, os; print(os.path.dirname(mooncake.__file__))"], capture_output=True,
                           text=True) if os.path.exists(python) else None
    if found is None or found.returncode != 0:
        print("Mooncake: not installed (make bench-deps)")
        return
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    master = subprocess.Popen([os.path.join(found.stdout.strip(), "mooncake_master"), f"--rpc_port={port}",
                               f"--metrics_port={int(port) + 1}", "--default_kv_lease_ttl=1000"], **quiet)
    workers = []
    try:
        time.sleep(2)
        for role in "AB":
            workers.append(subprocess.Popen([python, os.path.abspath(__file__), role, port], stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True))
            if workers[-1].stdout.readline() != "ready\n":
                print("Mooncake: its store does not start here")
                return
        took, number = {False: [], True: []}, 0
        for turn in range(3 if bench.QUICK else 2):
            for streamed in (False, True):
                number += 1
                complete, end = (ask(w, {"number": number, "streamed": streamed}) for w in workers)
                if turn > 0:  # the first round faults pages in
                    took[streamed].append(1e3 * (end - complete))
    finally:
        for process in workers:
            process.kill()
        master.terminate()
        for process in (*workers, master):
            process.wait()
    size = "128 MiB" if bench.QUICK else "1 GiB"
    for streamed, how in ((False, "all at once"), (True, "streamed")):
        bench.figure("publish", f"peer: Mooncake store over TCP, {size}, {how}", "ms", took[streamed])


if len(sys.argv) > 1:
    worker(sys.argv[1], sys.argv[2])
else:
    main()
