"""The foundation model and its tokenizer, out of one GGUF file, for training."""
import os

from gguf import GGUFReader
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

TARGETS = {  # the projections a sibling adapts: their names in transformers and in GGUF
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
CONTROL_TOKEN = 3  # tokenizer.ggml.token_type


def default_path():
    folder = os.environ.get("CAIRN_MODELS") or os.path.expanduser("~/.cache/cairn")
    return os.path.join(folder, "SmolLM2-135M-Instruct.Q4_1.gguf")


def head_counts(path):
    """(query heads, KV heads)"""
    reader = GGUFReader(path)
    return tuple(int(reader.fields[f"llama.attention.{key}"].contents()) for key in ("head_count", "head_count_kv"))


def load_tokenizer(path):
    """Byte-level BPE as the file describes it: digits one by one, then the GPT-2 pattern, special tokens first."""
    fields = GGUFReader(path).fields
    if fields["tokenizer.ggml.pre"].contents() != "smollm":
        raise SystemExit(f"{path}: pre-tokenizer {fields['tokenizer.ggml.pre'].contents()} is not known here")
    tokens = fields["tokenizer.ggml.tokens"].contents()
    kinds = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])
    special = [token for token, kind in zip(tokens, kinds) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def load_model(path, dtype):
    """The weights, dequantised, as a transformers model."""
    from transformers import AutoModelForCausalLM

    folder, name = os.path.split(os.path.abspath(path))
    return AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=dtype)
