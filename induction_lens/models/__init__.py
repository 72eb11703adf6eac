"""The seam to TransformerLens: the only package that names its classes and hook points.

Everything above works on the `Model` protocol, so that `HookedTransformer` and `TransformerBridge`
need no second copy of any module.
"""

from induction_lens.models.classes import HAS_HOOKED_TRANSFORMER
from induction_lens.models.describe import (
    ModelShape,
    batch_size_for,
    bos_id,
    centres,
    check_weights,
    checked_tokens,
    class_name,
    embedding,
    first_nan_layer,
    model_name,
    norm_weight,
    ordinary_ids,
    output_weights,
    positions_for,
    shape,
    tokenizer_of,
    unembedding,
    value_weights,
    weights_hash,
)
from induction_lens.models.hooks import (
    FINAL_SCALE,
    HookFunction,
    InterventionError,
    Model,
    Site,
    before_forward,
    device_of,
    hook_name,
    hook_points,
    installed,
    keep,
    running,
)
from induction_lens.models.native import (
    check_device,
    new_transformer,
    toy_weights,
)
from induction_lens.models.passes import (
    Unembedder,
    logits_at,
    losses_at,
    run_until,
    unembedded_losses,
)
from induction_lens.models.pretrained import best_device, is_model, load_pretrained
from induction_lens.models.projecting import AttentionInputs
from induction_lens.models.proof import prove_writes_land
from induction_lens.models.rotary import rotate, rotate_halves
from induction_lens.models.stream import Stream, streaming

__all__ = [
    "FINAL_SCALE",
    "HAS_HOOKED_TRANSFORMER",
    "AttentionInputs",
    "HookFunction",
    "InterventionError",
    "Model",
    "ModelShape",
    "Site",
    "Stream",
    "Unembedder",
    "batch_size_for",
    "before_forward",
    "best_device",
    "bos_id",
    "centres",
    "check_device",
    "check_weights",
    "checked_tokens",
    "class_name",
    "device_of",
    "embedding",
    "first_nan_layer",
    "hook_name",
    "hook_points",
    "installed",
    "is_model",
    "keep",
    "load_pretrained",
    "logits_at",
    "losses_at",
    "model_name",
    "new_transformer",
    "norm_weight",
    "ordinary_ids",
    "output_weights",
    "positions_for",
    "prove_writes_land",
    "rotate",
    "rotate_halves",
    "run_until",
    "running",
    "shape",
    "streaming",
    "tokenizer_of",
    "toy_weights",
    "unembedded_losses",
    "unembedding",
    "value_weights",
    "weights_hash",
]
