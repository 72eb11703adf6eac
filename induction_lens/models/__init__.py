"""The seam to TransformerLens: the only package that names its classes and hook points.

Everything above works on the `Model` protocol, so that `HookedTransformer` and `TransformerBridge`
need no second copy of any module.
"""

from induction_lens.models.attention import (
    Attention,
    FusedAttention,
    PatternAttention,
    Targets,
    pattern_of,
)
from induction_lens.models.calls import Call, before_forward, reading
from induction_lens.models.checkpoint import check_model_folder
from induction_lens.models.classes import HAS_HOOKED_TRANSFORMER
from induction_lens.models.exclusive import InterventionError, exclusive, undone
from induction_lens.models.fidelity import check_causal
from induction_lens.models.fitness import is_set
from induction_lens.models.from_scratch import (
    check_device,
    new_transformer,
    rewritten_residual,
    toy_weights,
)
from induction_lens.models.hooks import (
    FINAL_SCALE,
    HookFunction,
    Model,
    Site,
    device_of,
    forward,
    hook_name,
    hook_points,
    installed,
    keep,
    running,
    untyped,
)
from induction_lens.models.in_memory import is_transformers_model, load_in_memory
from induction_lens.models.inside import Projector
from induction_lens.models.layerwise import Layer, LayerByLayer
from induction_lens.models.own_format import checkpoint_files, is_own_format, load_own_format
from induction_lens.models.passes import (
    UNEMBED,
    Unembedder,
    logits_after,
    logits_at,
    losses_at,
    run_until,
    tolerance,
    unembedded_losses,
)
from induction_lens.models.pretrained import (
    best_device,
    is_model,
    load_downloaded,
    load_pretrained,
)
from induction_lens.models.projections import AttentionInputs
from induction_lens.models.prompts import mask_of, whole_numbers
from induction_lens.models.properties import (
    ModelShape,
    batch_size_for,
    bos_id,
    centres,
    check_weights,
    check_zero_removes,
    checked_tokens,
    class_name,
    embedding,
    first_nan_layer,
    key_weights,
    model_name,
    norm_weight,
    ordinary_ids,
    output_weights,
    positions_for,
    query_weights,
    residual_scale,
    shape,
    tokenizer_of,
    unembedding,
    value_weights,
    weights_hash,
)
from induction_lens.models.provenance import known_weights_hash, provenance_of, versions
from induction_lens.models.relative import rotations
from induction_lens.models.remembered import remembered
from induction_lens.models.roads import run
from induction_lens.models.rotary import rotate, rotate_halves
from induction_lens.models.rounding import has_bfloat16, rounded
from induction_lens.models.run import Run, Whole
from induction_lens.models.sequences import (
    FEWEST_DOCUMENTS,
    Ids,
    Mask,
    Sequences,
    TextTokens,
    Tokens,
    ids_of,
    sequences_of,
    units_of,
)
from induction_lens.models.surroundings import undisturbed
from induction_lens.models.write_checks import prove_writes_land
from induction_lens.models.written import (
    Readout,
    WrittenByHeads,
    check_written,
    heads_written,
    readout,
    unlike_written,
)

__all__ = [
    "FEWEST_DOCUMENTS",
    "FINAL_SCALE",
    "HAS_HOOKED_TRANSFORMER",
    "UNEMBED",
    "Attention",
    "AttentionInputs",
    "Call",
    "FusedAttention",
    "HookFunction",
    "Ids",
    "InterventionError",
    "Layer",
    "LayerByLayer",
    "Mask",
    "Model",
    "ModelShape",
    "PatternAttention",
    "Projector",
    "Readout",
    "Run",
    "Sequences",
    "Site",
    "Targets",
    "TextTokens",
    "Tokens",
    "Unembedder",
    "Whole",
    "WrittenByHeads",
    "batch_size_for",
    "before_forward",
    "best_device",
    "bos_id",
    "centres",
    "check_causal",
    "check_device",
    "check_model_folder",
    "check_weights",
    "check_written",
    "check_zero_removes",
    "checked_tokens",
    "checkpoint_files",
    "class_name",
    "device_of",
    "embedding",
    "exclusive",
    "first_nan_layer",
    "forward",
    "has_bfloat16",
    "heads_written",
    "hook_name",
    "hook_points",
    "ids_of",
    "installed",
    "is_model",
    "is_own_format",
    "is_set",
    "is_transformers_model",
    "keep",
    "key_weights",
    "known_weights_hash",
    "load_downloaded",
    "load_in_memory",
    "load_own_format",
    "load_pretrained",
    "logits_after",
    "logits_at",
    "losses_at",
    "mask_of",
    "model_name",
    "new_transformer",
    "norm_weight",
    "ordinary_ids",
    "output_weights",
    "pattern_of",
    "positions_for",
    "prove_writes_land",
    "provenance_of",
    "query_weights",
    "reading",
    "readout",
    "remembered",
    "residual_scale",
    "rewritten_residual",
    "rotate",
    "rotate_halves",
    "rotations",
    "rounded",
    "run",
    "run_until",
    "running",
    "sequences_of",
    "shape",
    "tokenizer_of",
    "tolerance",
    "toy_weights",
    "undisturbed",
    "undone",
    "unembedded_losses",
    "unembedding",
    "units_of",
    "unlike_written",
    "untyped",
    "value_weights",
    "versions",
    "weights_hash",
    "whole_numbers",
]
