"""What is no plain causal transformer: it must be refused, in one line that says so."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers


@dataclasses.dataclass(frozen=True)
class Foreign:
    """A tiny model of another kind.

    Attributes:
        name: what the table shows.
        model_class: the class in transformers whose weights are saved.
        model_type: the name of its configuration in transformers.
        options: what its configuration is given.
        weights: whether to write weights, or the configuration alone.
        at_load: whether it must be refused at load, or may be loaded and refused where heads are
            asked for.
    """

    name: str
    model_class: str
    model_type: str
    options: Mapping[str, Any]
    weights: bool = True
    at_load: bool = True


ENCODER = dict(
    vocab_size=127,
    hidden_size=48,
    intermediate_size=56,
    num_hidden_layers=2,
    num_attention_heads=6,
    max_position_embeddings=131,
)
VISION = {**ENCODER, "image_size": 16, "patch_size": 8}
SEQUENCE_TO_SEQUENCE = dict(
    vocab_size=127,
    d_model=48,
    encoder_layers=2,
    decoder_layers=2,
    encoder_attention_heads=6,
    decoder_attention_heads=6,
    encoder_ffn_dim=56,
    decoder_ffn_dim=56,
    max_position_embeddings=129,
)
DECODER = {**ENCODER, "num_key_value_heads": 2, "max_position_embeddings": 129}
EXPERTS = dict(num_experts=2, num_experts_per_tok=2, moe_intermediate_size=28)
RECURRENT = dict(vocab_size=127, hidden_size=48, num_hidden_layers=2)

PARTLY_ATTENTION = [
    ("LFM2", "Lfm2ForCausalLM", "lfm2", dict(layer_types=["conv", "full_attention"])),
    (
        "Qwen3-Next",
        "Qwen3NextForCausalLM",
        "qwen3_next",
        dict(
            layer_types=["linear_attention", "full_attention"],
            head_dim=8,
            shared_expert_intermediate_size=30,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
            **EXPERTS,
        ),
    ),
    (
        "Jamba",
        "JambaForCausalLM",
        "jamba",
        dict(num_experts=2, attn_layer_period=2, attn_layer_offset=1, use_mamba_kernels=False),
    ),
    (
        "Bamba",
        "BambaForCausalLM",
        "bamba",
        dict(attn_layer_indices=[1], mamba_n_heads=12, mamba_d_head=8, mamba_d_state=8),
    ),
    (
        "RecurrentGemma",
        "RecurrentGemmaForCausalLM",
        "recurrent_gemma",
        dict(block_types=["recurrent", "attention"], head_dim=8, lru_width=48),
    ),
    ("HRM", "HrmTextForCausalLM", "hrm_text", dict(head_dim=8)),
]
"""Without attention in layer 0, or with layers that run several times."""

FOREIGN: dict[str, Foreign] = {
    foreign.name: foreign
    for foreign in (
        Foreign("BERT", "BertForMaskedLM", "bert", ENCODER),
        Foreign("RoBERTa", "RobertaForMaskedLM", "roberta", {**ENCODER, "pad_token_id": 1}),
        Foreign("ELECTRA", "ElectraForMaskedLM", "electra", {**ENCODER, "embedding_size": 48}),
        Foreign("DistilBERT", "DistilBertForMaskedLM", "distilbert", dict(vocab_size=127, dim=48)),
        Foreign(
            "T5",
            "T5ForConditionalGeneration",
            "t5",
            dict(vocab_size=127, d_model=48, d_kv=8, d_ff=56, num_layers=2, num_heads=6),
        ),
        Foreign("BART", "BartForConditionalGeneration", "bart", SEQUENCE_TO_SEQUENCE),
        Foreign(
            "Whisper",
            "WhisperForConditionalGeneration",
            "whisper",
            {**SEQUENCE_TO_SEQUENCE, "num_mel_bins": 8, "pad_token_id": 0},
        ),
        Foreign("Mamba", "MambaForCausalLM", "mamba", RECURRENT),
        Foreign(
            "Mamba 2",
            "Mamba2ForCausalLM",
            "mamba2",
            {**RECURRENT, "num_heads": 12, "head_dim": 8, "n_groups": 1},
        ),
        Foreign("Falcon Mamba", "FalconMambaForCausalLM", "falcon_mamba", RECURRENT),
        Foreign("RWKV", "RwkvForCausalLM", "rwkv", {**RECURRENT, "attention_hidden_size": 48}),
        Foreign("ViT", "ViTForImageClassification", "vit", VISION),
        Foreign("CLIP", "CLIPModel", "clip", dict(text_config=ENCODER, vision_config=VISION)),
        Foreign(
            "LLaVA",
            "LlavaForConditionalGeneration",
            "llava",
            dict(
                text_config={"model_type": "llama", **ENCODER},
                vision_config={"model_type": "clip_vision_model", **VISION},
                image_token_index=5,
            ),
        ),
        Foreign("Gemma 3 with images", "Gemma3ForConditionalGeneration", "gemma3", {}, False),
        *(
            Foreign(name, model_class, model_type, {**DECODER, **options}, at_load=False)
            for name, model_class, model_type, options in PARTLY_ATTENTION
        ),
        Foreign("Qwen 2.5 VL", "Qwen2_5_VLForConditionalGeneration", "qwen2_5_vl", {}, False),
    )
}


def write_folder(foreign: Foreign, folder: Path) -> None:
    """The model as `save_pretrained` writes it, or its configuration alone."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(foreign.model_type, **foreign.options)
    if foreign.weights:
        getattr(transformers, foreign.model_class)(config).save_pretrained(folder)
    else:
        config.architectures = [foreign.model_class]
        config.save_pretrained(folder)
