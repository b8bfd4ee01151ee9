"""transformers as a resident process: one JSON line about itself, then numbers of tokens in and seconds out, from token ids on the
host to the logits of the last one on the host, with keys and values kept. argv[1]: the shape as bench/gpu_prefill prints it; argv[2]:
the device, "cuda" unless said. Runs in build/bench/venv-gpu."""
import json
import os
import sys
import time

import torch
import transformers


def load(shape, device):
    config = transformers.LlamaConfig(
        hidden_size=shape["hidden"], intermediate_size=shape["ffn"], num_hidden_layers=shape["layers"], num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"], head_dim=shape["head_dim"], vocab_size=shape["vocab"], rope_theta=shape["theta"],
        max_position_embeddings=131072, rms_norm_eps=1e-5, tie_word_embeddings=False)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.bfloat16)
    return model.eval()


def main():
    shape, device = json.loads(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "cuda"
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries write where they like
    torch.manual_seed(int(os.environ.get("CAIRN_BENCH_SEED", "1")))
    model = load(shape, device)
    assert model.config._attn_implementation == "sdpa"
    assert next(model.parameters()).dtype == torch.bfloat16
    answers.write(json.dumps({"versions": f"torch {torch.__version__}, transformers {transformers.__version__}"}) + "\n")
    answers.flush()
    for line in sys.stdin:
        tokens = torch.randint(0, shape["vocab"], (1, int(line)))
        begin = time.monotonic()
        with torch.inference_mode():
            said = model(tokens.to(device), use_cache=True, logits_to_keep=1)
        said.logits.float().cpu()  # waits
        answers.write(f"{time.monotonic() - begin:.9g}\n")
        answers.flush()
        del said


main()
