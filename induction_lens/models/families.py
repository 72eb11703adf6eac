"""Which kind of model a configuration describes, before any weights are read.

The package reads the attention of decoder-only language models. Everything else is refused by its
type: otherwise some of it would be scored, and for some TransformerLens would install packages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

STATE_SPACE = "a state-space model, which has no attention"
_STATE_SPACE_TYPES = {"falcon_mamba", "mamba", "mamba2", "rwkv", "xlstm"}
_SENSES = ("vision", "image", "vq", "audio", "text")  # parts of models that read more than text
_CONTEXTS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_sequence_length",
)


def other_family(config: Any) -> str | None:
    """What a model is, in words, if it is not a decoder-only language model with attention.

    Args:
        config: A Hugging Face configuration.
    """
    return next((words for words, describes in _FAMILIES if describes(config)), None)


def is_state_space(model_type: str) -> bool:
    """Whether models of this type have a recurrent state instead of attention.

    RWKV's later versions live in code of their own, under names that transformers does not know.
    """
    return model_type in _STATE_SPACE_TYPES or model_type.startswith("rwkv")


def is_known(model_type: str) -> bool:
    """Whether the installed transformers has code for this model type."""
    from transformers import CONFIG_MAPPING

    return model_type in CONFIG_MAPPING


def own_context(config: Any) -> int | None:
    """The longest sequence by the model's own configuration; None if that sets no limit."""
    text = config.get_text_config()
    for name in _CONTEXTS:
        length = getattr(text, name, None)
        if isinstance(length, int) and length > 0:
            return length
    return None


def _mapped(*heads: str) -> set[str]:
    """Model types for which transformers has one of these heads."""
    from transformers.models.auto import modeling_auto

    mappings = [getattr(modeling_auto, f"MODEL_FOR_{head}_MAPPING_NAMES", {}) for head in heads]
    return {kind for mapping in mappings for kind in mapping}


def _only(*heads: str) -> set[str]:
    """Model types with one of these heads that cannot predict the next token as well."""
    return _mapped(*heads) - _mapped("CAUSAL_LM")


def _is_audio(config: Any) -> bool:
    heads = ("SPEECH_SEQ_2_SEQ", "AUDIO_CLASSIFICATION", "CTC", "TEXT_TO_WAVEFORM")
    return config.model_type in _mapped(*heads)


def _is_multimodal(config: Any) -> bool:
    parts = [name for name in vars(config) if name.endswith("_config")]
    if any(part.startswith(_SENSES) for part in parts):
        return True
    return config.model_type in _mapped("IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM")


def _is_encoder_decoder(config: Any) -> bool:
    if getattr(config, "is_encoder_decoder", False):
        return True
    return config.model_type in _only("SEQ_TO_SEQ_CAUSAL_LM")


def _is_vision(config: Any) -> bool:
    return config.model_type in _only("IMAGE", "IMAGE_CLASSIFICATION", "OBJECT_DETECTION")


def _is_encoder(config: Any) -> bool:
    if config.model_type in _only("MASKED_LM", "TEXT_ENCODING"):
        return True
    fills_gaps = config.model_type in _mapped("MASKED_LM") | {"bert-generation"}
    return fills_gaps and not getattr(config, "is_decoder", False)


def _predicts_no_token(config: Any) -> bool:
    return is_known(config.model_type) and config.model_type not in _mapped("CAUSAL_LM")


def _is_hybrid(config: Any) -> bool:
    kinds = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None)
    return any("attention" not in kind or "linear" in kind for kind in map(str, kinds or []))


_FAMILIES: tuple[tuple[str, Callable[[Any], bool]], ...] = (
    (STATE_SPACE, lambda config: is_state_space(config.model_type)),
    ("an audio model", _is_audio),
    ("a multimodal model", _is_multimodal),
    ("a sequence-to-sequence model", _is_encoder_decoder),
    ("a vision model", _is_vision),
    ("an encoder, whose attention looks ahead", _is_encoder),
    ("a model that does not predict the next token", _predicts_no_token),
    ("a hybrid, whose layers are not all attention", _is_hybrid),
)
