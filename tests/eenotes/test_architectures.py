"""Every kind of causal language model: an exit that is right, or one sentence.

Tiny random models with large weights, so that attention matters, and windows shorter than the text.
"""

import pytest
import torch
from torch.testing import assert_close

pytest.importorskip("transformers")

import transformers

from eenotes.language import decoders, decoding, exits, initialisation

pytestmark = pytest.mark.slow
V, DEPTH, AT, NEW = 40, 4, 2, 5
SIZE = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
SHORT = {"n_embd": 16, "n_head": 2, "n_layer": DEPTH, "n_positions": 64}  # GPT-2's names
WINDOW = {"sliding_window": 6, "use_sliding_window": True}
ALTERNATING = WINDOW | {"layer_types": ["sliding_attention", "full_attention"] * 2}
ABOVE = WINDOW | {"layer_types": ["full_attention"] * 2 + ["sliding_attention"] * 2}
EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
LATENT = {
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
}
HEAD = {"head_dim": 8}
RIGHT = {
    "Llama": {},
    "Mistral": WINDOW,
    "Mixtral": WINDOW | EXPERTS,
    "Qwen2": WINDOW | {"max_window_layers": 2},
    "Qwen2Moe": EXPERTS | {"shared_expert_intermediate_size": 16},
    "Qwen3": HEAD | WINDOW | {"max_window_layers": 1},
    "Gemma": HEAD,
    "Gemma2": HEAD | WINDOW | {"final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8},
    "Gemma3Text": HEAD | ALTERNATING,
    "Gemma4Text": HEAD
    | ALTERNATING
    | {"global_head_dim": 8, "hidden_size_per_layer_input": 4, "vocab_size_per_layer_input": V},
    "Granite": {"logits_scaling": 4.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.7},
    "GraniteMoe": EXPERTS | {"logits_scaling": 4.0},
    "Cohere": {"logit_scale": 0.25},
    "Cohere2": ALTERNATING | {"logit_scale": 0.25},
    "Phi": {},
    "Phi3": WINDOW,
    "Olmo2": {},
    "Olmo3": ABOVE,
    "StableLm": {},
    "Starcoder2": WINDOW,
    "Falcon": {"alibi": True},
    "Bloom": {"n_head": 2},
    "Mpt": {"d_model": 16, "n_heads": 2, "n_layers": DEPTH, "max_seq_len": 64},
    "GPTBigCode": SHORT,
    "GPTNeo": {
        "num_layers": DEPTH,
        "num_heads": 2,
        "attention_types": [[["global", "local"], 2]],
        "window_size": 6,
    },
    "GPTJ": SHORT | {"rotary_dim": 4},
    "GPTNeoX": {},
    "GPT2": SHORT,
    "OPT": {"ffn_dim": 32, "word_embed_proj_dim": 8, "do_layer_norm_before": False},
    "XGLM": {"d_model": 16, "ffn_dim": 32, "num_layers": DEPTH, "attention_heads": 2},
    "BioGpt": {},
    "Nemotron": {},
    "CTRL": SHORT | {"dff": 32},
    "SmolLM3": ABOVE,
    "Exaone4": ALTERNATING,
    "Glm4": HEAD,
    "GptOss": HEAD | EXPERTS | ALTERNATING,
    "DeepseekV3": LATENT | EXPERTS,
    "Ministral": HEAD | ALTERNATING,
    "DiffLlama": {},
    "Llama4Text": HEAD
    | EXPERTS
    | {
        "attention_chunk_size": 6,
        "intermediate_size_mlp": 32,
        "no_rope_layers": [1, 0, 1, 0],
        "layer_types": ["chunked_attention", "full_attention"] * 2,
    },
    "NanoChat": {},
    "Bart": {
        "d_model": 16,
        "decoder_layers": DEPTH,
        "encoder_layers": DEPTH,  # config.num_hidden_layers
        "decoder_ffn_dim": 32,
        "decoder_attention_heads": 2,
        "is_decoder": True,
        "forced_eos_token_id": None,
        "is_encoder_decoder": False,
    },
}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_n_groups": 1}
STATE = "recurrent state|in two parts"  # not every release of transformers declares it
REFUSED = {
    "Mamba": ({"state_size": 4}, "recurrent state"),
    "Mamba2": ({"num_heads": 4, "head_dim": 8, "n_groups": 1}, "recurrent state"),
    "Rwkv": ({"attention_hidden_size": 16}, "recurrent state"),
    "RecurrentGemma": ({"lru_width": 16, "attention_window_size": 6}, STATE),
    "Bamba": (MAMBA | {"attn_layer_indices": [1]}, "recurrent state"),
    "Lfm2": ({"layer_types": ["conv", "full_attention"] * 2}, STATE),
    "Gemma3nText": (
        HEAD
        | ALTERNATING
        | {
            "hidden_size_per_layer_input": 4,
            "vocab_size_per_layer_input": V,
            "num_kv_shared_layers": 2,
            "laurel_rank": 4,
        },
        "Gemma3nForCausalLM",
    ),
    "Bert": ({"is_decoder": True}, "found between them: Linear, GELUActivation, LayerNorm"),
    "MiniCPM3": (LATENT | {"dim_model_base": 8}, "found between them: MiniCPM3RMSNorm"),
    "OpenAIGPT": (SHORT, "does not run in two parts"),
    "ModernBertDecoder": ({"pad_token_id": 0}, "between them: LayerNorm, Linear, GELU"),
}


def built(name: str, options: dict) -> torch.nn.Module:
    if not hasattr(transformers, f"{name}Config"):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    own_names = {"n_embd", "d_model"} & set(options)
    size = {"max_position_embeddings": 64} if name in ("XGLM", "Bart") else {}
    size = {**({} if own_names else SIZE), **size, "vocab_size": V}
    tokens = {"pad_token_id": None, "bos_token_id": 0, "eos_token_id": 1}
    config = getattr(transformers, f"{name}Config")(**size | tokens | options)
    name = name.removesuffix("Text")
    kind = getattr(transformers, f"{name}ForCausalLM", None) or getattr(
        transformers, f"{name}LMHeadModel"
    )
    torch.manual_seed(0)
    model = kind(config).eval()
    for weight in model.parameters():
        weight.data *= 8 if weight.ndim > 1 else 1
    return model


@pytest.fixture(scope="module")
def prompt():
    return torch.randint(2, V, (12,), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def by_hand(model, prompt: torch.Tensor) -> torch.Tensor:
    """Greedy text, every token from the whole prefix and without a cache."""
    text = prompt[None]
    for _ in range(NEW):
        best = model(input_ids=text, use_cache=False).logits[:, -1:].argmax(-1)
        text = torch.cat([text, best], 1)
    return text[0]


@pytest.mark.parametrize("name", RIGHT)
def test_right(name, prompt):
    model = built(name, RIGHT[name])
    exited = exits.attach(model, at=AT)
    assert not exited.training

    # waiting tokens give the logits of the whole text, beyond any window
    parts, logits, ids = decoders.TwoParts(model, AT), [], prompt.repeat(2)[None]
    with torch.no_grad():
        for i, tokens in enumerate(ids.split([9, 1, 1, 1, 7, 2, 1, 1, 1], 1)):
            parts.below(tokens)
            if i not in (1, 2, 5, 6):
                logits.append(parts.above())
        whole = model(input_ids=ids, use_cache=False)
        tolerance = 1e-4 * whole.logits.abs().max().item()
        assert_close(torch.cat(logits, 1), whole.logits, rtol=1e-4, atol=tolerance)

    # the copied head behind the norm is the final head, or is refused
    found = exits.anatomy(model)
    if found.scale is None:
        with pytest.raises(ValueError, match="caps or changes the logits"):
            initialisation.copied_head(model)
    else:
        weight, bias = initialisation.copied_head(model)
        with torch.no_grad():
            last = exits.hidden_states(model, ids, at=DEPTH)
            normed = last if found.final_norm is None else found.final_norm(last)
        assert_close(normed @ weight.T + bias, whole.logits, rtol=1e-4, atol=tolerance)
        initialisation.initialise(exited, "copy")

    # the same text by hand, by transformers, by early exits that never leave, and by drafts
    expected = by_hand(model, prompt)
    options = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None}
    assert torch.equal(model.generate(prompt[None], pad_token_id=0, **options)[0], expected)
    assert torch.equal(decoding.greedy(exited, prompt, max_new_tokens=NEW).ids, expected)
    never = decoding.early_exit(exited, prompt, max_new_tokens=NEW, threshold=1)
    assert torch.equal(never.ids, expected)
    drafted = decoding.self_speculative(exited, prompt, max_new_tokens=NEW, draft=2)
    assert drafted.drafted and torch.equal(drafted.ids, expected)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    options, sentence = REFUSED[name]
    model = built(name, options)
    with pytest.raises(TypeError, match=sentence):
        exits.attach(model, at=AT)
    assert not any(module.training for module in model.modules())
