"""The architectures: a configuration each, small, with every switch that changes attention."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

LENGTH = 129
"""BOS and four times 32 tokens; the whole context, where a case says nothing else."""
D_VOCAB = 127
WINDOW = 37
"""Of local attention: shorter than the sequences, and no multiple of anything here."""

SPECIAL_TOKENS = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)


@dataclasses.dataclass(frozen=True)
class Case:
    """One tiny model.

    Attributes:
        name: what the table shows.
        model_type: the name of its configuration in transformers.
        options: what its configuration is given.
        tokenizer: whether a tokenizer is saved beside the weights.
        gain: of all weight matrices; above 1, attention is far from uniform.
    """

    name: str
    model_type: str
    options: Mapping[str, Any]
    tokenizer: bool = False
    gain: float = 1.6


def _llama_like(name: str, model_type: str | None = None, **options: Any) -> Case:
    """A case with the names of sizes that most architectures share; six heads read two."""
    sizes = dict(
        vocab_size=D_VOCAB,
        hidden_size=48,
        intermediate_size=56,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=False,
    )
    return Case(name, model_type or name, {**sizes, **SPECIAL_TOKENS, **options})


def _one_key_a_head(name: str, model_type: str | None = None, **options: Any) -> Case:
    """As `_llama_like`, for architectures without grouped queries."""
    case = _llama_like(name, model_type, **options)
    kept = {key: value for key, value in case.options.items() if key != "num_key_value_heads"}
    return dataclasses.replace(case, options=kept)


def _gpt2(name: str, *, tokenizer: bool = False, gain: float = 1.6, **options: Any) -> Case:
    sizes = dict(vocab_size=D_VOCAB, n_positions=LENGTH, n_embd=42, n_layer=2, n_head=3)
    return Case(name, "gpt2", {**sizes, **SPECIAL_TOKENS, **options}, tokenizer, gain)


def _scaled_llama(kind: str, *, context: int = LENGTH, **scaling: Any) -> Case:
    rotary = {"rope_type": kind, **scaling}
    name = f"llama {kind}" if context == LENGTH else f"llama {kind} beyond its context"
    return _llama_like(name, "llama", rope_scaling=rotary, max_position_embeddings=context)


EXPERTS = dict(num_experts_per_tok=2, moe_intermediate_size=28)
LATENT = dict(
    kv_lora_rank=20,
    q_lora_rank=22,
    qk_nope_head_dim=10,
    qk_rope_head_dim=8,
    v_head_dim=14,
    num_attention_heads=3,
    num_key_value_heads=3,
    n_routed_experts=4,
    n_shared_experts=1,
    first_k_dense_replace=1,
    **EXPERTS,
)
SHORT_FACTORS = [1.0, 1.1, 1.3, 1.7]
LONG_FACTORS = [1.0, 2.0, 3.1, 5.3]
BOTH_GLOBAL = ["full_attention", "full_attention"]
LOCAL_THEN_GLOBAL = ["sliding_attention", "full_attention"]


def _longrope(original: int) -> dict[str, Any]:
    """Short factors up to `original` tokens, long ones beyond, for heads of size 8."""
    return dict(
        rope_type="longrope",
        short_factor=SHORT_FACTORS,
        long_factor=LONG_FACTORS,
        original_max_position_embeddings=original,
    )


def _mpt(name: str, **attention: Any) -> Case:
    sizes = dict(vocab_size=D_VOCAB, d_model=48, n_heads=6, n_layers=2, max_seq_len=LENGTH)
    return Case(name, "mpt", {**sizes, **SPECIAL_TOKENS, "attn_config": attention})


GPT_FAMILY = [
    _gpt2("gpt2"),
    _gpt2("gpt2 with a tokenizer", tokenizer=True, vocab_size=311),
    _gpt2("gpt2 unscaled", scale_attn_weights=False, gain=0.7),
    _gpt2("gpt2 scaled by layer", scale_attn_by_inverse_layer_idx=True),
    _gpt2("gpt2 reordered", scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True),
    Case(
        "gpt_neo",
        "gpt_neo",
        dict(
            vocab_size=D_VOCAB,
            hidden_size=42,
            num_layers=2,
            num_heads=3,
            attention_types=[[["global", "local"], 1]],
            window_size=WINDOW,
            max_position_embeddings=LENGTH,
            **SPECIAL_TOKENS,
        ),
        gain=0.7,
    ),
    *(
        Case(
            model_type,
            model_type,
            dict(
                vocab_size=D_VOCAB,
                n_positions=LENGTH,
                n_embd=n_head * 12,
                n_layer=2,
                n_head=n_head,
                rotary_dim=4,
                **SPECIAL_TOKENS,
            ),
        )
        for model_type, n_head in (("gptj", 3), ("codegen", 4))
    ),
    _one_key_a_head("gpt_neox", rotary_pct=0.5),
    _one_key_a_head("gpt_neox sequential", "gpt_neox", use_parallel_residual=False),
    _one_key_a_head("gpt_neox without biases", "gpt_neox", attention_bias=False),
    Case(
        "gpt_bigcode",
        "gpt_bigcode",
        dict(
            vocab_size=D_VOCAB,
            n_positions=LENGTH,
            n_embd=48,
            n_layer=2,
            n_head=6,
            multi_query=True,
            **SPECIAL_TOKENS,
        ),
    ),
    Case(
        "gpt_bigcode, a key for each head",
        "gpt_bigcode",
        dict(
            vocab_size=D_VOCAB,
            n_positions=LENGTH,
            n_embd=48,
            n_layer=2,
            n_head=6,
            multi_query=False,
            **SPECIAL_TOKENS,
        ),
    ),
    Case(
        "openai-gpt",
        "openai-gpt",
        dict(vocab_size=D_VOCAB, n_positions=LENGTH, n_embd=42, n_layer=2, n_head=3),
    ),
]

OPT_SIZES = dict(ffn_dim=56, word_embed_proj_dim=48)
ALIBI_AND_LEARNED = [
    _one_key_a_head("opt", **OPT_SIZES),
    _one_key_a_head(
        "opt, norms after, projected",
        "opt",
        do_layer_norm_before=False,
        ffn_dim=56,
        word_embed_proj_dim=20,
    ),
    Case(
        "bloom",
        "bloom",
        dict(vocab_size=D_VOCAB, hidden_size=48, n_layer=2, n_head=6, **SPECIAL_TOKENS),
    ),
    _one_key_a_head("falcon", multi_query=True),
    _one_key_a_head("falcon with biases", "falcon", multi_query=True, bias=True),
    _one_key_a_head("falcon new", "falcon", new_decoder_architecture=True, num_kv_heads=2),
    _one_key_a_head(
        "falcon alibi",
        "falcon",
        alibi=True,
        multi_query=False,
        parallel_attn=False,
        bias=True,
    ),
    _mpt("mpt"),
    _mpt("mpt clipped", clip_qkv=4.5),
    Case(
        "xglm",
        "xglm",
        dict(
            vocab_size=D_VOCAB,
            d_model=48,
            ffn_dim=56,
            num_layers=2,
            attention_heads=6,
            max_position_embeddings=LENGTH,
            **SPECIAL_TOKENS,
        ),
    ),
    _one_key_a_head("biogpt"),
]

LLAMA_FAMILY = [
    _llama_like("llama", num_key_value_heads=6),
    _llama_like("llama grouped", "llama"),
    dataclasses.replace(
        _llama_like("llama with a tokenizer", "llama", vocab_size=311), tokenizer=True
    ),
    _llama_like("llama with biases", "llama", attention_bias=True, mlp_bias=True),
    _llama_like("llama with wide heads", "llama", head_dim=14, tie_word_embeddings=True),
    _scaled_llama("linear", factor=4.0),
    _scaled_llama("dynamic", factor=4.0),
    _scaled_llama("dynamic", factor=4.0, context=64),
    _scaled_llama("yarn", factor=4.0, original_max_position_embeddings=32),
    _scaled_llama(
        "llama3",
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=32,
    ),
    _llama_like("llama longrope from 129", "llama", rope_scaling=_longrope(LENGTH - 1)),
    _llama_like("mistral", sliding_window=None),
    _llama_like("mistral local", "mistral", sliding_window=WINDOW),
    _llama_like("ministral3", head_dim=8),
    _llama_like(
        "ministral3, queries scaled by position",
        "ministral3",
        head_dim=8,
        rope_scaling=dict(
            rope_type="yarn",
            factor=4.0,
            original_max_position_embeddings=LENGTH - 60,
            llama_4_scaling_beta=0.5,
        ),
    ),
    _llama_like("mixtral", num_local_experts=4, sliding_window=WINDOW),
    _llama_like("arcee"),
    _llama_like("smollm3", no_rope_layers=[1, 0]),
    _llama_like("seed_oss", head_dim=10, attention_bias=True),
    _llama_like("helium", head_dim=8),
    _llama_like("ernie4_5", use_bias=True),
    _llama_like(
        "ernie4_5_moe",
        moe_num_experts=4,
        moe_k=2,
        moe_intermediate_size=28,
        moe_layer_start_index=1,
        use_bias=True,
    ),
    _llama_like("hunyuan_v1_dense", head_dim=8),
    _llama_like("apertus"),
    _llama_like("bitnet"),
    _llama_like("granite", attention_multiplier=0.2, residual_multiplier=0.7, logits_scaling=0.6),
    _llama_like(
        "granitemoe",
        attention_multiplier=0.2,
        embedding_multiplier=1.4,
        num_local_experts=4,
        num_experts_per_tok=2,
    ),
    _llama_like("nanochat", final_logit_softcapping=5.0),
    _llama_like("jais2", attention_bias=True, mlp_bias=True),
]

QWEN_AND_GEMMA = [
    _llama_like("qwen2"),
    _llama_like(
        "qwen2 local from layer 1",
        "qwen2",
        use_sliding_window=True,
        sliding_window=WINDOW,
        max_window_layers=1,
    ),
    _llama_like("qwen2_moe", num_experts=4, shared_expert_intermediate_size=30, **EXPERTS),
    _llama_like("qwen3", head_dim=10),
    _llama_like("qwen3_moe", head_dim=10, num_experts=4, **EXPERTS),
    _llama_like("gemma", head_dim=14, tie_word_embeddings=True),
    _llama_like(
        "gemma2",
        head_dim=14,
        query_pre_attn_scalar=9,
        sliding_window=WINDOW,
        attn_logit_softcapping=5.0,
        final_logit_softcapping=4.0,
        layer_types=LOCAL_THEN_GLOBAL,
    ),
    _llama_like(
        "gemma3",
        "gemma3_text",
        head_dim=14,
        query_pre_attn_scalar=9,
        sliding_window=WINDOW,
        layer_types=LOCAL_THEN_GLOBAL,
    ),
    _llama_like("vaultgemma", head_dim=14, sliding_window=WINDOW, layer_types=LOCAL_THEN_GLOBAL),
]

PHI_AND_COHERE = [
    _llama_like("phi", partial_rotary_factor=0.5),
    _llama_like("phi with normed queries", "phi", qk_layernorm=True),
    _llama_like("phi3"),
    _llama_like("phi3 local", "phi3", sliding_window=WINDOW),
    *(
        _llama_like(
            f"phi3 longrope from {original + 1}",
            "phi3",
            original_max_position_embeddings=original,
            rope_scaling=_longrope(original),
        )
        for original in (64, LENGTH - 1)
    ),
    _llama_like("phimoe", num_local_experts=4, attention_bias=True, sliding_window=None),
    _llama_like("stablelm", use_qkv_bias=True),
    _llama_like("stablelm parallel", "stablelm", use_parallel_residual=True),
    _llama_like("stablelm with normed queries", "stablelm", qk_layernorm=True),
    _llama_like("starcoder2", use_bias=True, sliding_window=WINDOW),
    _llama_like("cohere", logit_scale=0.5),
    _llama_like("cohere with normed queries", "cohere", logit_scale=0.5, use_qk_norm=True),
    _llama_like("cohere2", logit_scale=0.5, sliding_window=WINDOW, layer_types=LOCAL_THEN_GLOBAL),
    _llama_like("glm", head_dim=8, attention_bias=True),
    _llama_like("glm4", head_dim=8, attention_bias=True),
    _llama_like("nemotron"),
    _one_key_a_head("persimmon"),
]

OTHERS = [
    _llama_like("olmo"),
    _llama_like("olmo clipped", "olmo", clip_qkv=3.0),
    _llama_like("olmo2"),
    _llama_like("olmo3", sliding_window=WINDOW, layer_types=LOCAL_THEN_GLOBAL),
    _llama_like("olmoe", num_experts=4, num_experts_per_tok=2, clip_qkv=3.0),
    _llama_like("flex_olmo", num_experts=4, num_experts_per_tok=2),
    _llama_like("exaone4", sliding_window=WINDOW, layer_types=LOCAL_THEN_GLOBAL),
    _llama_like(
        "gpt_oss",
        head_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=WINDOW,
        layer_types=LOCAL_THEN_GLOBAL,
    ),
    _llama_like("deepseek_v2", **LATENT),
    _llama_like("deepseek_v3", **LATENT, n_group=2, topk_group=1),
    _llama_like("glm4_moe_lite", **LATENT, n_group=1, topk_group=1),
    _llama_like("youtu", **LATENT),
    _llama_like(
        "llama4",
        "llama4_text",
        head_dim=8,
        intermediate_size_mlp=58,
        num_local_experts=4,
        interleave_moe_layer_step=2,
        no_rope_layers=[1, 0],
        attention_chunk_size=WINDOW,
        floor_scale=40,
        attn_scale=0.7,
    ),
    _llama_like(
        "glm4_moe", n_routed_experts=4, n_group=1, topk_group=1, use_qk_norm=True, **EXPERTS
    ),
    _llama_like("minimax_m2", head_dim=8, num_local_experts=4, num_experts_per_tok=2),
    _llama_like(
        "afmoe",
        head_dim=8,
        num_experts=4,
        num_dense_layers=1,
        sliding_window=WINDOW,
        layer_types=LOCAL_THEN_GLOBAL,
        **EXPERTS,
    ),
    _llama_like("laguna", head_dim=8, num_experts=4, shared_expert_intermediate_size=30, **EXPERTS),
    _llama_like(
        "gemma4",
        "gemma4_text",
        head_dim=14,
        global_head_dim=14,
        sliding_window=WINDOW,
        hidden_size_per_layer_input=0,
        layer_types=LOCAL_THEN_GLOBAL,
    ),
    _llama_like(
        "qwen3_next, attention only",
        "qwen3_next",
        head_dim=8,
        layer_types=BOTH_GLOBAL,
        num_experts=4,
        shared_expert_intermediate_size=30,
        **EXPERTS,
    ),
    _llama_like(
        "granitemoehybrid, attention only",
        "granitemoehybrid",
        layer_types=["attention"] * 2,
        num_local_experts=4,
        shared_intermediate_size=30,
        position_embedding_type="rope",
        mamba_n_heads=12,
    ),
    _one_key_a_head(
        "modernbert-decoder", local_attention=2 * WINDOW, layer_types=LOCAL_THEN_GLOBAL
    ),
    _llama_like(
        "gemma3n",
        "gemma3n_text",
        head_dim=14,
        num_kv_shared_layers=0,
        sliding_window=WINDOW,
        layer_types=LOCAL_THEN_GLOBAL,
        vocab_size_per_layer_input=D_VOCAB,
        hidden_size_per_layer_input=10,
        laurel_rank=6,
        activation_sparsity_pattern=[0.0, 0.0],
    ),
    Case(
        "dbrx",
        "dbrx",
        dict(
            vocab_size=D_VOCAB,
            d_model=48,
            n_heads=6,
            n_layers=2,
            max_seq_len=LENGTH,
            attn_config=dict(kv_n_heads=2, clip_qkv=3.0, rope_theta=1e4),
            ffn_config=dict(ffn_hidden_size=28, moe_num_experts=4, moe_top_k=2, hidden_size=48),
            **SPECIAL_TOKENS,
        ),
    ),
]

CASES: dict[str, Case] = {
    case.name: case
    for case in (
        *GPT_FAMILY,
        *ALIBI_AND_LEARNED,
        *LLAMA_FAMILY,
        *QWEN_AND_GEMMA,
        *PHI_AND_COHERE,
        *OTHERS,
    )
}
