"""Loading pretrained models: a name on the Hugging Face hub, or a local folder.

With TransformerLens 3.9 an official model name gives a `HookedTransformer`. Everything else, and
everything with TransformerLens 4, gives a `TransformerBridge` in compatibility mode, whose hook
names and weights are those of a `HookedTransformer`. A wrapped model that does not predict what the
Hugging Face model predicts is replaced by a plainer one, or refused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from induction_lens.checks import first_line
from induction_lens.models.checkpoint import Checkpoint, downloaded, open_checkpoint
from induction_lens.models.classes import (
    HAS_HOOKED_TRANSFORMER,
    bridge_class,
    hooked_class,
    is_bridge,
    is_hooked,
)
from induction_lens.models.families import own_context
from induction_lens.models.fidelity import Reference, difference_from, reference_of
from induction_lens.models.from_scratch import check_device
from induction_lens.models.hooks import Model
from induction_lens.models.own_format import is_own_format, load_own_format
from induction_lens.models.properties import check_weights
from induction_lens.models.refusing import (
    Refused,
    is_out_of_memory,
    out_of_memory,
    refusing,
)
from induction_lens.models.surroundings import undisturbed

_log = logging.getLogger(__name__)
_UNLIMITED = 2048  # what TransformerLens takes as the context where a configuration has no limit


def best_device() -> str:
    """`cuda` or `mps` where there is one, else `cpu`."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def is_model(candidate: object) -> bool:
    """Whether this is a `HookedTransformer` or `TransformerBridge` object."""
    return is_bridge(candidate) or is_hooked(candidate)


def official_name(name: str) -> str | None:
    """The hub name of a model that TransformerLens lists, by that name or an alias."""
    from transformer_lens.supported_models import MODEL_ALIASES, OFFICIAL_MODEL_NAMES

    if name in OFFICIAL_MODEL_NAMES:
        return name
    return next((hub for hub, aliases in MODEL_ALIASES.items() if name in aliases), None)


def load_pretrained(
    name: str,
    *,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
    check: bool = True,
    revision: str | None = None,
    checkpoint: int | None = None,
    device_map: Any = None,
) -> Model:
    """Load a model by hub name or from a local Hugging Face folder.

    A folder without a tokenizer loads too: `model.tokenizer` is then None. Value biases stay in the
    values, so that setting a head's `z` to zero removes all of what the head adds.

    Args:
        name: A hub name or a folder.
        device: Where to put the model; None for the best there is.
        dtype: Type of its weights; None for float32.
        trust_remote_code: Whether code that comes with the model may run.
        check: Whether to compare the model's predictions with those of the Hugging Face model.
        revision: A branch, tag or commit of a hub repository.
        checkpoint: Instead: a step of Pythia or of stanford-crfm's GPT-2, or the number in the name
            of one of TransformerLens's own checkpoint files.
        device_map: How accelerate spreads the model over devices.

    Raises:
        ValueError: The model cannot be read, or TransformerLens does not run it as Hugging Face
            does, or there is no such device, revision or checkpoint.
    """
    check_device(device)
    device = str(device or best_device())
    dtype = dtype or torch.float32
    is_folder = Path(name).exists()
    hub_name = name if is_folder else official_name(name) or name
    if is_folder and (revision is not None or checkpoint is not None):
        raise Refused(
            f"expected a name on the hub with revision or checkpoint, got the folder {name}; leave "
            "them out"
        )
    with undisturbed():
        if is_own_format(hub_name) and not is_folder:
            _refuse_for_own_format(hub_name, revision, device_map)
            return load_own_format(hub_name, device=device, dtype=dtype, checkpoint=checkpoint)
        if checkpoint is not None:
            revision = checkpoint_revision(hub_name, checkpoint)
        chosen = {"device": device, "dtype": dtype, "check": check, "device_map": device_map}
        if revision is not None:
            folder = downloaded(hub_name, revision)
            return load_downloaded(folder, hub_name, trust_remote_code=trust_remote_code, **chosen)
        opened = open_checkpoint(hub_name, trust_remote_code=trust_remote_code)
        return first_faithful(opened, **chosen)


def load_downloaded(
    folder: Path, name: str, *, trust_remote_code: bool = False, **chosen: Any
) -> Model:
    """Load a model of the hub from a folder with its files, which may be pickles of weights.

    Args:
        folder: The files.
        name: The repository that they are of.
        trust_remote_code: As in `load_pretrained`.
        chosen: `device`, `dtype`, `check` and `device_map`, as in `load_pretrained`.

    Raises:
        ValueError: As `load_pretrained`.
    """
    with undisturbed():
        opened = open_checkpoint(str(folder), trust_remote_code=trust_remote_code, pickles=True)
        found = first_faithful(opened, **chosen)
        found.cfg.model_name = name.rpartition("/")[2]
        return found


def checkpoint_revision(name: str, checkpoint: int) -> str:
    """The branch of a training step, for the suites whose names TransformerLens knows.

    Raises:
        ValueError: It is another model.
    """
    if name.startswith("EleutherAI/pythia"):
        return f"step{checkpoint}"
    if name.startswith("stanford-crfm/"):
        return f"checkpoint-{checkpoint}"
    raise Refused(
        f"expected a checkpoint of Pythia, of stanford-crfm's GPT-2 or in TransformerLens's own "
        f"format, got {name}; name its branch with revision"
    )


def _refuse_for_own_format(name: str, revision: str | None, device_map: Any) -> None:
    for option, given in (("revision", revision), ("device_map", device_map)):
        if given is not None:
            raise Refused(
                f"expected no {option} with {name}, whose checkpoints are files in "
                f"TransformerLens's own format, got {given!r}; pass checkpoint=<number in the name>"
            )


def first_faithful(
    checkpoint: Checkpoint,
    *,
    device: str,
    dtype: torch.dtype,
    check: bool,
    device_map: Any = None,
) -> Model:
    """The model, wrapped in the first way that predicts what the Hugging Face model predicts.

    Raises:
        ValueError: There is none, or the weights cannot be read.
    """
    context = own_context(checkpoint.config)
    reference: Reference | None = None
    failures: list[str] = []
    for way, wrap in _ways(checkpoint, spread=device_map is not None).items():
        # wrapping changes the Hugging Face model in place, so that each way starts from the files;
        # what the last one holds is freed first
        model = hf_model = None
        hf_model = checkpoint.read_model(device=device, dtype=dtype, device_map=device_map)
        if check and reference is None:
            remedy = "check that it runs in transformers"
            with refusing("a model that transformers can run", checkpoint.name, remedy):
                reference = reference_of(hf_model, context or _UNLIMITED)
            if not reference.is_finite:
                check_weights(hf_model)
        try:
            model = wrap(checkpoint, hf_model, device, dtype)
            difference = difference_from(reference, model) if reference else None
        except Refused:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise out_of_memory(checkpoint.name, error) from error
            failures.append(f"{way} fails ({first_line(error)})")
            continue
        if difference is None or difference.is_rounding:
            for failure in failures:
                _log.warning("%s: %s; %s is used instead", checkpoint.name, failure, way)
            _set_context(model, context, checkpoint.name)
            model.value_biases_kept = True  # which `check_zero_removes` could not tell
            return model
        failures.append(f"the log-probabilities of {way} are off by up to {difference.largest:.2g}")
    raise Refused(
        "expected a model that TransformerLens runs as Hugging Face does, got "
        f"{checkpoint.name}, with which it does not: {'; '.join(failures)}; pass another model"
    )


def _ways(
    checkpoint: Checkpoint, *, spread: bool = False
) -> dict[str, Callable[[Checkpoint, Any, str, torch.dtype], Any]]:
    """How a checkpoint can be wrapped, best first; only bridges leave weights where they are."""
    bridges = {
        "TransformerBridge": _bridge,
        "TransformerBridge with its weights as they are": _plain_bridge,
    }
    hooked = {"HookedTransformer": _hooked} if _can_be_hooked(checkpoint) and not spread else {}
    return hooked | bridges


def _can_be_hooked(checkpoint: Checkpoint) -> bool:
    if not HAS_HOOKED_TRANSFORMER or checkpoint.folder is not None:
        return False
    from transformer_lens.loading_from_pretrained import NEED_REMOTE_CODE_MODELS

    # for these names it would run code of the repository without being asked to
    runs_code = checkpoint.name.startswith(NEED_REMOTE_CODE_MODELS)
    return official_name(checkpoint.name) is not None and not runs_code


def _hooked(checkpoint: Checkpoint, hf_model: Any, device: str, dtype: torch.dtype) -> Any:
    return hooked_class().from_pretrained(
        checkpoint.name,
        hf_model=hf_model.to("cpu"),  # so that the device need not hold both
        device=device,
        dtype=dtype,
        fold_value_biases=False,
    )


def _bridge(checkpoint: Checkpoint, hf_model: Any, device: str, dtype: torch.dtype) -> Any:
    bridge = _booted(checkpoint, hf_model, device, dtype)
    bridge.enable_compatibility_mode(disable_warnings=True, fold_value_biases=False)
    return bridge


def _plain_bridge(checkpoint: Checkpoint, hf_model: Any, device: str, dtype: torch.dtype) -> Any:
    bridge = _booted(checkpoint, hf_model, device, dtype)
    bridge.enable_compatibility_mode(disable_warnings=True, no_processing=True)
    return bridge


def _booted(checkpoint: Checkpoint, hf_model: Any, device: str, dtype: torch.dtype) -> Any:
    tokenizer = checkpoint.read_tokenizer()
    has_tokenizer = tokenizer is not None or checkpoint.folder is None
    remedy = "pass a model of an architecture that it has"
    with refusing("a model that TransformerLens can wrap", checkpoint.name, remedy):
        bridge = bridge_class().boot_transformers(
            checkpoint.name,
            hf_model=hf_model,
            tokenizer=tokenizer if has_tokenizer else _placeholder_tokenizer(),
            # a spread model stays where it is
            device=None if getattr(hf_model, "hf_device_map", None) else device,
            dtype=dtype,
            trust_remote_code=checkpoint.trust_remote_code,
        )
    if not has_tokenizer:
        bridge.tokenizer = None
    return bridge


def _placeholder_tokenizer() -> Any:
    # TransformerLens cannot boot a folder that has no tokenizer; this one is dropped after booting.
    import transformers
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    empty = Tokenizer(WordLevel({"<bos>": 0}, unk_token="<bos>"))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=empty,
        bos_token="<bos>",
        eos_token="<bos>",
        pad_token="<bos>",
        # TransformerLens reloads a tokenizer from this name unless it adds BOS by itself
        name_or_path="none",
        add_bos_token=True,
    )


def _set_context(model: Any, own: int | None, name: str) -> None:
    """Set the context that the model's configuration gives; TransformerLens misses some names for
    it.

    A `HookedTransformer` keeps masks of its own length, which can only be cut.
    """
    if own is None:
        _log.info("%s sets no limit to its context; %d is used", name, model.cfg.n_ctx)
    elif is_bridge(model) or own < model.cfg.n_ctx:
        model.cfg.n_ctx = own
