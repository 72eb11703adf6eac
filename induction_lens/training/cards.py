"""What the card of a trained model says of it: how it was trained, and what held-out text gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from induction_lens.inputs.tokens import sample_text
from induction_lens.metrics import icl_score, per_token_loss, short_cuts
from induction_lens.models import weights_hash
from induction_lens.toys.model import toy_config
from induction_lens.training.loop import TrainingRun
from induction_lens.training.mixtures import answered, begun_with

if TYPE_CHECKING:
    from induction_lens.training.presets import Preset


def card_of(model: Any, run: TrainingRun, preset: Preset, progress: bool) -> dict[str, Any]:
    """What there is to know of a trained model, measured on held-out text."""
    config = toy_config(model)
    text = "Python source: the standard library and installed packages"
    if preset.prose:
        text += f"; and, for {preset.prose:.0%} of the characters, their documentation"
    if preset.mixture is not None:
        text += f"; {preset.mixture}"
    if preset.begins_with is not None:
        text += f"; {begun_with(preset.begins_with)}"
    return {
        "layers": config.n_layers,
        "heads": config.n_heads,
        "d_model": config.d_model,
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "training_tokens": run.tokens_seen,
        "training_steps": run.n_steps,
        "training_text": text,
        **held_out(model, progress=progress),
        **({} if preset.mixture is None else {"few_shot": answered(model)}),
        "seed": config.seed,
        "weights": weights_hash(model),
    }


def held_out(model: Any, *, n_sequences: int | None = 256, progress: bool = True) -> dict[str, Any]:
    """What a card says of a model on held-out text: its loss, and its ICL score by matched targets,
    in nats, with an interval over documents.

    Args:
        model: A toy with a tokenizer.
        n_sequences: How many sequences to draw; None: all there are, as for models that ship.
        progress: Show progress bars.
    """
    text = sample_text(model, n_sequences=n_sequences, seq_len=toy_config(model).n_ctx)
    losses, short_losses = (
        per_token_loss(model, tokens, progress=progress)
        for tokens in (text.tokens, short_cuts(text.tokens, window=10))
    )
    icl = icl_score(losses, window=10, short_losses=short_losses, documents=text.documents)
    return {
        "held_out_text": (
            f"held-out files of the standard library, {'all ' if n_sequences is None else ''}"
            f"{icl.n:,} sequences of {icl.n_documents} documents"
        ),
        "held_out_loss": losses.nanmean().item(),
        "icl_score": icl.value,
        "icl_low": icl.low,
        "icl_high": icl.high,
        "icl_definition": (
            "mean loss of the tokens at positions 490-510 minus their mean loss where only the 39 "
            "to 59 tokens before them and BOS are read (matched targets), in nats; 95% interval "
            "over documents"
        ),
    }
