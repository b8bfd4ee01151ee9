"""llama.cpp as a resident process: JSON lines {prompt, n_predict, keep} in, its timings out. Runs in a virtual environment of
build/bench that has xllamacpp, or llama_cpp (llama-cpp-python, built for this machine)."""
import json
import os
import sys
import time


def xllamacpp_server(model, threads):
    import xllamacpp
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx = 8192
    params.n_parallel = 1
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)

    def answer(request):
        said = server.handle_completions({"prompt": request["prompt"], "n_predict": request["n_predict"], "cache_prompt": request["keep"],
                                          "temperature": 0, "ignore_eos": True})
        return (said if isinstance(said, dict) else json.loads(said))["timings"]
    return answer


def llama_cpp_python(model, threads):
    import llama_cpp
    llama = llama_cpp.Llama(model, n_ctx=8192, n_batch=2048, n_ubatch=512, n_threads=threads, n_threads_batch=threads, verbose=False)

    def answer(request):
        tokens = llama.tokenize(request["prompt"].encode(), add_bos=False, special=True)
        kept = 0
        if request["keep"] and list(llama.input_ids[:len(tokens)]) == tokens and llama.n_tokens >= len(tokens):
            kept = len(tokens) - 1
        llama.n_tokens = kept
        llama._ctx.kv_cache_seq_rm(-1, kept, -1)
        begin = time.monotonic()
        llama.eval(tokens[kept:])
        middle = time.monotonic()
        for _ in range(request["n_predict"]):
            llama.eval([int(llama.sample(temp=0.0))])
        end = time.monotonic()
        n = request["n_predict"]
        return {"prompt_n": len(tokens) - kept, "prompt_per_second": (len(tokens) - kept) / (middle - begin),
                "predicted_n": n, "predicted_per_second": n / (end - middle)}
    return answer


def main():
    model, threads = sys.argv[1], int(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the library writes where it likes
    try:
        answer = xllamacpp_server(model, threads)
    except ImportError:
        answer = llama_cpp_python(model, threads)
    for line in sys.stdin:
        answers.write(json.dumps(answer(json.loads(line))) + "\n")
        answers.flush()


main()
