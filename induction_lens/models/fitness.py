"""Whether a model may be run layer by layer, and whether its logits are its plain unembedding.

A comparison on a few tokens shows what acts on every token. It cannot show what begins later: a
window, a clip of large values, rotary factors that depend on the length of the sequence, a user's
hook that waits for position 120. So this is decided by what the configuration says, and by what is
attached to the model's parts. Each function returns the reason, or None.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch.nn.modules import module as torch_module

from induction_lens.models.from_scratch import rewritten_residual
from induction_lens.models.hooks import Model, parts, untyped

# Hugging Face's architectures whose attention is a softmax of q·k over all earlier positions, for
# each head alone, unless one of the settings below says otherwise.
_PLAIN_TYPES = frozenset(
    (
        *("arcee", "codegen", "cohere", "ernie4_5", "falcon", "gemma", "glm", "glm4", "gpt2"),
        *("gpt_bigcode", "gpt_neox", "gptj", "granite", "granitemoe", "helium", "llama"),
        *("hunyuan_v1_dense", "mistral", "mixtral", "nemotron", "olmo", "olmo2", "olmoe", "opt"),
        *("persimmon", "phi", "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe"),
        *("seed_oss", "smollm3", "stablelm", "starcoder2"),
    )
)
_ROPE_OF_ANY_LENGTH = frozenset(["default", "linear", "llama3", "yarn"])
_POSITIONS = frozenset(["standard", "rotary", "shortformer", "none"])
_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")
# Settings that are off where they are None, False, zero or negative.
_SPECIAL = (
    "alibi",
    "attn_logit_softcapping",
    "attn_scores_soft_cap",
    "clip_qkv",
    "use_attention_sinks",
    "use_dynamic_ntk_rope",
    "use_logn_attn",
)
_LOGIT_CAPS = ("final_logit_softcapping", "output_logits_soft_cap", "logits_soft_cap")
# Packages whose code on a model's parts does not change what these compute.
_KNOWN_PACKAGES = frozenset(["induction_lens", "torch", "transformer_lens", "transformers"])


def unfit_for_layers(model: Model, n_pos: int) -> str | None:
    """Why a model cannot be run layer by layer on sequences of a length; None if it can."""
    hooked = any(point.fwd_hooks for point in model.hook_dict.values())
    reason = "there are hooks on it" if hooked else foreign_code(model)
    rewritten = rewritten_residual(model)
    if rewritten is not None:
        reason = reason or f"a canon layer rewrites {rewritten}"
    return reason or _unplain_attention(model, n_pos)


def unfit_for_unembedding(model: Model) -> str | None:
    """Why a model's logits may be more than its unembedding of each single position; None if they
    are not."""
    for settings in _settings(model):
        for name in _LOGIT_CAPS:
            if _is_on(settings.get(name)):
                return f"{name} is set"
    return foreign_code(model)


def is_set(model: Model, name: str) -> bool:
    """Whether a setting of the model's configuration, or of a part of it, is on."""
    return any(_is_on(settings.get(name)) for settings in _settings(model))


def foreign_code(model: Model) -> str | None:
    """What code of the user or of another library acts when the model runs: hooks, replaced forward
    functions, modules of other libraries; None if there is none."""
    for point in model.hook_dict.values():
        if any(not _is_ours(handle) for handle in point.fwd_hooks):
            return f"there is a hook on {point.name}"
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        return "there is a global torch hook"
    for part in parts(model):
        kind = type(part)
        if _package(kind.__module__) not in _KNOWN_PACKAGES:
            return f"{kind.__name__} is a module of {kind.__module__}"
        functions = [*part._forward_hooks.values(), *part._forward_pre_hooks.values()]
        functions += [vars(part)["forward"]] if "forward" in vars(part) else []
        for function in functions:
            owner = getattr(function, "__module__", None) or type(function).__module__
            if _package(owner) not in _KNOWN_PACKAGES:
                return (
                    f"there is a torch hook or a forward function of {owner} on a {kind.__name__}"
                )
    return None


def _unplain_attention(model: Model, n_pos: int) -> str | None:
    """Why attention is more than a softmax of q·k over all earlier positions."""
    config = _hugging_face_config(model)
    reason = _unknown_kind(model) if config is None else None
    kind = getattr(config, "model_type", None)
    if config is not None and kind not in _PLAIN_TYPES:
        reason = f"attention of {kind or type(config).__name__} is not known to be plain"
    for settings in _settings(model):
        reason = reason or _special_setting(settings, n_pos)
    return reason


def _unknown_kind(model: Model) -> str | None:
    """Why attention is not plain, by the configuration of a model that is TransformerLens's own."""
    cfg = model.cfg
    if getattr(cfg, "attention_dir", "causal") != "causal":
        return f"attention_dir is {cfg.attention_dir}"
    if cfg.positional_embedding_type not in _POSITIONS:
        return f"its positions are {cfg.positional_embedding_type}"
    return None


def _special_setting(settings: Mapping[Any, Any], n_pos: int) -> str | None:
    """The first of some settings that makes attention more than plain on `n_pos` positions."""
    for name in _SPECIAL:
        if _is_on(settings.get(name)):
            return f"{name} is set"
    windowed = settings.get("use_sliding_window", True) and settings.get("use_local_attn", True)
    for name in _WINDOWS if windowed else ():
        window = settings.get(name)
        if isinstance(window, int) and 0 < window < n_pos:
            return f"{name} is {window}, shorter than the sequences"
    for rope in _rope_types(settings):
        if rope not in _ROPE_OF_ANY_LENGTH:
            return f"its rotary positions ({rope}) depend on the length of the sequence"
    return None


def _settings(model: Model) -> Iterator[Mapping[Any, Any]]:
    """The settings that a model was made from, as dictionaries."""
    yield vars(model.cfg)
    config = _hugging_face_config(model)
    if config is not None:
        settings = config.to_dict()
        yield settings
        yield from (value for value in settings.values() if isinstance(value, dict))


def _hugging_face_config(model: Model) -> Any:
    """The configuration of a wrapped Hugging Face model; None if there is none."""
    config = getattr(vars(untyped(model)).get("original_model"), "config", None)
    return config if hasattr(config, "to_dict") else None


def _rope_types(settings: Mapping[Any, Any]) -> Iterator[str]:
    """The kinds of rotary positions named in settings, one or one for each kind of layer."""
    for name in ("rope_parameters", "rope_scaling"):
        of_layers = settings.get(name)
        if not isinstance(of_layers, dict):
            continue
        for rope in (of_layers, *(v for v in of_layers.values() if isinstance(v, dict))):
            kind = rope.get("rope_type", rope.get("type"))
            if kind is not None:
                yield str(kind)


def _is_on(value: Any) -> bool:
    if isinstance(value, (int, float)):
        return value > 0
    return value is not None


def _is_ours(handle: Any) -> bool:
    """Whether `hooks.installed` put a hook there: its levels are negative."""
    return handle.context_level is not None and handle.context_level < 0


def _package(module: str) -> str:
    return module.partition(".")[0]
