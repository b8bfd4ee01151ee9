"""llama.cpp as a resident process: JSON lines {prompt, n_predict} in, its timings out. Runs in build/bench/venv."""
import json
import os
import sys

import xllamacpp


def main():
    model, threads = sys.argv[1], int(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the library writes where it likes
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx = 8192
    params.n_parallel = 1
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)
    for line in sys.stdin:
        request = json.loads(line)
        answer = server.handle_completions({"prompt": request["prompt"], "n_predict": request["n_predict"], "cache_prompt": False,
                                            "temperature": 0, "ignore_eos": True})
        answer = answer if isinstance(answer, dict) else json.loads(answer)
        answers.write(json.dumps(answer["timings"]) + "\n")
        answers.flush()


main()
