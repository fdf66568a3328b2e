"""Tiny random language models of four families, and a text for them."""

from collections.abc import Callable

import pytest

COMMON = {
    "vocab_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "hidden_size": 16,
}
OPT = COMMON | {"ffn_dim": 32, "word_embed_proj_dim": 16, "init_std": 0.3, "dropout": 0.1}
OPT |= {"pad_token_id": None}
TOKENS = {"bos_token_id": 0, "eos_token_id": 1}
ROTARY = COMMON | TOKENS | {"intermediate_size": 32, "initializer_range": 0.3}
GPT2 = TOKENS | {
    "vocab_size": 40,
    "n_embd": 16,
    "n_layer": 4,
    "n_head": 2,
    "n_positions": 64,
    "initializer_range": 0.3,
}
KINDS = {
    "opt tied": ("OPT", "ForCausalLM", OPT),
    "opt untied": ("OPT", "ForCausalLM", OPT | {"tie_word_embeddings": False}),
    "opt like 350m": (
        "OPT",
        "ForCausalLM",
        OPT | {"word_embed_proj_dim": 8, "do_layer_norm_before": False},
    ),
    "llama": ("Llama", "ForCausalLM", ROTARY),
    "neox": ("GPTNeoX", "ForCausalLM", ROTARY),
    "gpt2": ("GPT2", "LMHeadModel", GPT2),
    "gpt2 with bias": ("GPT2", "LMHeadModel", GPT2),
}


@pytest.fixture(params=KINDS)
def name(request) -> str:
    """The name of each kind of language model in turn."""
    return request.param


@pytest.fixture(scope="session")
def made() -> Callable:
    """``made(name)``: a language model in evaluation mode; V = 40, D = 16, four decoders."""
    import torch
    import transformers

    def build(name: str) -> torch.nn.Module:
        family, task, settings = KINDS[name]
        torch.manual_seed(0)
        config = getattr(transformers, f"{family}Config")(**settings)
        model = getattr(transformers, f"{family}{task}")(config)
        if name == "gpt2 with bias":
            head = torch.nn.Linear(16, 40)
            head.weight = model.lm_head.weight
            model.lm_head = head
        return model.eval()

    return build


@pytest.fixture(scope="session")
def text() -> Callable:
    """``text(rows=6, length=12, seed=0)``: token numbers; the last five of 40 never occur."""
    import torch

    def draw(rows: int = 6, length: int = 12, seed: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(0, 35, (rows, length), generator=generator)

    return draw
