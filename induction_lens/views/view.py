"""Any head on any prompt: where it attends, how much it moves from there, and to which logit.

Three numbers for each query `q` and key `k` of a head:

- *pattern* `A[q, k]`: its attention.
- *value-weighted* `A[q, k] · ‖v[k] W_O‖`: the length of what it moves from `k` to `q` (Kobayashi et
  al. 2020, "Attention is Not Only a Weight: Analyzing Transformers with Vector Norms", equation 4).
  The value bias is in `v`. Where a model's norms take the mean over `d_model` out, it is taken out
  before: no later part sees it.
- *logit attribution* `A[q, k] · v[k] W_O · u[x[q + 1]] / s[q]`: what that adds, directly, to the
  logit of the token that really comes next, above the mean logit. `u[t]` is the column of `W_U` of
  token `t` minus the mean over the vocabulary, with the final norm's weight and centring folded in,
  and `s[q]` what the final norm divides by at `q`, held fixed. Its sum over keys is the head's
  direct contribution to that logit. Paths through later layers are left out. Source of the view:
  Olsson et al. 2022, "In-context Learning and Induction Heads", Argument 4 (logit attribution).

Each is exact. The page rounds them to 8 bits (`page`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens import checks
from induction_lens.detectors import AttentionDetector
from induction_lens.detectors.registry import attention_detector
from induction_lens.files import write_text
from induction_lens.heads import Head, HeadLike, HeadScores, names_of, parse_heads
from induction_lens.inputs.prompt import Prompt, one_sequence, token_texts
from induction_lens.models import (
    Model,
    device_of,
    heads_written,
    model_name,
    readout,
    running,
    shape,
    weights_hash,
)
from induction_lens.packing import packable
from induction_lens.views import page

if TYPE_CHECKING:
    import pandas as pd

MOST_TOKENS = 2048
"""The longest prompt of a view."""
MOST_CELLS = 16_000_000
"""Pairs of a query and an earlier key, or itself, over all heads of a view."""


@dataclass(frozen=True, eq=False)
class HeadView:
    """One head on one prompt."""

    head: Head
    """The head."""
    pattern: Float[Tensor, "query_pos key_pos"]
    """Its attention; each row sums to 1, where the architecture has no sinks."""
    value_weighted: Float[Tensor, "query_pos key_pos"] | None
    """Attention times the length of what is moved; None where it cannot be told."""
    logit_attribution: Float[Tensor, "query_pos key_pos"] | None
    """What each key adds, through this head, to the logit of the next token; NaN at the last
    position, which no token follows; None where it cannot be told."""


@packable
@dataclass(frozen=True, eq=False)
class AttentionView:
    """Some heads on one prompt, as numbers and as a page that needs no network.

    A notebook shows the page in a frame of its own.
    """

    model: str
    """Name of the model."""
    ids: Int[Tensor, " pos"]
    """The token ids, BOS at position 0."""
    tokens: tuple[str, ...]
    """The text of each token."""
    n_heads: int
    """Heads in each layer of the model."""
    n_layers: int
    """Layers of the model."""
    heads: tuple[Head, ...]
    """The heads that are shown, in the model's order."""
    pattern: Float[Tensor, "chosen query_pos key_pos"]
    """Their attention."""
    value_norm: Float[Tensor, "chosen key_pos"] | None
    """The length of what each would move from a key that it attends to alone; None where it cannot
    be told."""
    logit_attribution: Float[Tensor, "chosen query_pos key_pos"] | None
    """What each key adds, through a head, to the logit of the next token; NaN at the last position;
    None where it cannot be told."""
    detector: AttentionDetector | None
    """Whose targets are underlined, if any are."""
    targets: Int[Tensor, "target 2"]
    """Queries and keys that the detector counts; empty without one."""
    scores: HeadScores | None
    """Scores of all heads, to choose by; None: attention on the targets in this prompt."""
    notes: tuple[str, ...]
    """What is left out, and why, in sentences."""
    card: Mapping[str, str] = field(default_factory=dict)
    """What model, tokens and versions these numbers are of."""

    @property
    def value_weighted(self) -> Float[Tensor, "chosen query_pos key_pos"] | None:
        """Attention times the length of what is moved."""
        return None if self.value_norm is None else self.pattern * self.value_norm[:, None, :]

    @property
    def on_targets(self) -> Float[Tensor, " chosen"] | None:
        """Each head's attention on the detector's targets in this prompt: summed over the targets
        of a query, averaged over queries that have one. None where there is no target."""
        if not len(self.targets):
            return None
        query, key = self.targets.T
        return self.pattern[:, query, key].sum(-1) / len(query.unique())

    def __getitem__(self, head: HeadLike) -> HeadView:
        """One head, such as `view["1.6"]`.

        Raises:
            ValueError: If it is not in the model, or not among those shown.
        """
        [parsed] = parse_heads([head], n_layers=self.n_layers, n_heads=self.n_heads)
        if parsed not in self.heads:
            remedy = "name it in heads= when you make the view"
            raise checks.refuse(
                "the head", f"one of {_listed(self.heads)}", None, remedy, given=str(parsed)
            )
        at = self.heads.index(parsed)
        pattern, norm, logits = self.pattern[at], self.value_norm, self.logit_attribution
        return HeadView(
            parsed,
            pattern,
            None if norm is None else pattern * norm[at],
            None if logits is None else logits[at],
        )

    @property
    def html(self) -> str:
        """The page: one HTML document, complete in itself."""
        return page.document(self)

    def save(self, path: str | Path) -> Path:
        """Write the page to a file, whole or not at all.

        Returns:
            The path.

        Raises:
            ValueError: If it is a folder, or no path.
        """
        file = checks.path("the file", path)
        write_text(file, self.html)
        return file

    def to_frame(self) -> pd.DataFrame:
        """One row per head, query and key that it attends to with more than 0: positions, tokens,
        `pattern`, and, where they can be told, `value_weighted` and `logit_attribution`."""
        import pandas as pd

        at, query, key = self.pattern.nonzero(as_tuple=True)
        texts = pd.array(self.tokens, dtype="string")
        columns: dict[str, Any] = {
            "layer": [self.heads[i].layer for i in at.tolist()],
            "head": [self.heads[i].head for i in at.tolist()],
            "query": query.numpy(),
            "key": key.numpy(),
            "query_token": texts[query.numpy()],
            "key_token": texts[key.numpy()],
        }
        for name in ("pattern", "value_weighted", "logit_attribution"):
            table = getattr(self, name)
            if table is not None:
                columns[name] = table[at, query, key].numpy()
        return pd.DataFrame(columns)

    def __repr__(self) -> str:
        """In one line: which heads of which model, on how many tokens."""
        heads = f"{len(self.heads)} heads" if len(self.heads) > 4 else names_of(self.heads)
        return f"AttentionView({self.model}: {heads} on {len(self.tokens)} tokens)"

    def _repr_html_(self) -> str:
        return page.framed(self.html, f"Attention of {self.model}")


def attention(
    model: Model,
    text_or_tokens: Prompt,
    heads: Iterable[HeadLike] | HeadLike | None = None,
    *,
    detector: AttentionDetector | str | None = "induction",
    scores: HeadScores | None = None,
) -> AttentionView:
    """Look at heads of a model on one prompt: pattern, value-weighted pattern, logit attribution.

    The module says what these three are. They are taken from the model's own patterns and values
    in a run over the prompt; padding is taken off before.

    Args:
        model: A hooked model, from `load` or your own.
        text_or_tokens: A text, which gets the model's BOS; or token ids with BOS at position 0, as
            a list, a tensor [pos] or [1 pos], or what a tokenizer returns for one text. At most
            2,048 tokens.
        heads: Which heads; None: all of them, where the page holds so many on so many tokens.
        detector: Whose targets to underline: a name such as `induction` or `previous_token`, an
            `AttentionDetector` of your own, or None.
        scores: Scores of all heads, to choose heads by on the page; None: their attention on the
            targets in this prompt.

    Raises:
        ValueError: If the model cannot read the prompt, heads are not the model's, the scores are
            not of its heads, or there are more numbers than a page holds.

    Examples:
        >>> model = il.load("toy-2l")
        >>> view = il.views.attention(model, "def add(first, second): return first + second")
        >>> view.save("attention.html").name
        'attention.html'
        >>> weights = view["1.6"].pattern
        >>> view.tokens[18], view.tokens[int(weights[18].argmax())]
        (' se', 'con')
    """
    checks.model(model)
    ids = one_sequence(model, text_or_tokens)
    sizes = shape(model)
    grid = {"n_layers": sizes.n_layers, "n_heads": sizes.n_heads}
    chosen = _chosen(heads, len(ids), **grid)
    found = None if detector is None else attention_detector(detector)
    targets = _targets(found, ids)
    _check_scores(scores, sizes.n_layers, sizes.n_heads)
    return AttentionView(
        model=model_name(model),
        ids=ids,
        tokens=token_texts(model, ids),
        **grid,
        heads=chosen,
        **_measured(model, ids, chosen),
        detector=found,
        targets=targets,
        scores=scores,
        card=_card(model, ids),
    )


def n_cells(n_heads: int, n_pos: int) -> int:
    """Pairs of a query and a key that it sees, over some heads."""
    return n_heads * n_pos * (n_pos + 1) // 2


def most_heads(n_pos: int) -> int:
    """How many heads a view holds on so many tokens."""
    return MOST_CELLS // n_cells(1, n_pos)


def _chosen(
    heads: Iterable[HeadLike] | HeadLike | None, n_pos: int, *, n_layers: int, n_heads: int
) -> tuple[Head, ...]:
    """The heads to show, as far as a page holds them.

    Raises:
        ValueError: If it does not, or they are not the model's.
    """
    if n_pos > MOST_TOKENS:
        condition, remedy = f"at most {MOST_TOKENS:,} tokens", "pass a part of it"
        raise checks.refuse("the prompt", condition, None, remedy, given=f"{n_pos:,}")
    if heads is None:
        every = [Head(layer, head) for layer in range(n_layers) for head in range(n_heads)]
    else:
        every = parse_heads(heads, n_layers=n_layers, n_heads=n_heads)
    if len(every) > most_heads(n_pos):
        raise checks.refuse(
            "heads",
            f"at most {most_heads(n_pos)} heads on {n_pos:,} tokens",
            None,
            "name those to look at, such as 0.0 and 1.0, or pass fewer tokens",
            given=f"{len(every)}",
        )
    return tuple(every)


def _measured(model: Model, ids: Int[Tensor, " pos"], chosen: Sequence[Head]) -> dict[str, Any]:
    """Patterns, lengths of values, logit attribution, and what is left out of these."""
    n_pos = len(ids)
    at = {head: index for index, head in enumerate(chosen)}
    pattern = torch.zeros(len(chosen), n_pos, n_pos, dtype=torch.float32, device="cpu")
    norm, logits = torch.zeros_like(pattern[:, 0]), torch.full_like(pattern, torch.nan)
    reasons: list[str] = []
    by_layer = {
        layer: [head.head for head in chosen if head.layer == layer]
        for layer in sorted({head.layer for head in chosen})
    }
    with running(model):
        tokens = ids[None].to(device_of(model))
        read = readout(model, tokens, tokens[0, 1:])
        for seen in heads_written(model, tokens, by_layer):
            if seen.why_not is not None:
                reasons.append(seen.why_not)
            for place, head in enumerate(seen.heads):
                index = at[Head(seen.layer, head)]
                weights = seen.pattern[place]
                pattern[index] = weights.cpu()
                if seen.written is None:
                    continue
                norm[index] = seen.written[place].norm(dim=-1).cpu()
                if not isinstance(read, str):
                    raised = (seen.written[place] @ read.directions).T
                    logits[index, :-1] = (weights[:-1] * raised / read.scale[:-1, None]).cpu()
    _check_finite(pattern)
    known, told = not reasons, not reasons and not isinstance(read, str)
    return {
        "pattern": pattern,
        "value_norm": norm if known else None,
        "logit_attribution": logits if told else None,
        "notes": tuple(_notes(reasons, read)),
    }


def _notes(reasons: Sequence[str], read: object) -> Iterable[str]:
    if reasons:
        both = "Value-weighted attention and logit attribution are left out"
        yield f"{both}: in this model {reasons[0]}."
    elif isinstance(read, str):
        yield f"Logit attribution is left out: in this model {read}."


def _check_finite(pattern: Tensor) -> None:
    """Check that attention is numbers.

    Raises:
        ValueError: If some is NaN.
    """
    if not bool(torch.isfinite(pattern).all()):
        raise ValueError(
            "expected finite attention, got NaN or infinite; load the model in float32, or check "
            "its weights"
        )


def _targets(detector: AttentionDetector | None, ids: Int[Tensor, " pos"]) -> Tensor:
    """Queries and keys that a detector counts [target 2]."""
    if detector is None:
        return torch.zeros(0, 2, dtype=torch.long, device="cpu")
    _, query, key = detector.find(ids[None])
    return torch.stack([query, key], dim=1)


def _check_scores(scores: object, n_layers: int, n_heads: int) -> None:
    """Check that scores, if there are any, are of the model's heads.

    Raises:
        ValueError: If they are not.
    """
    if scores is None:
        return
    remedy = 'pass those of one detector, such as score_heads(model)["induction"]'
    given = checks.instance("scores", scores, HeadScores, remedy)
    if tuple(given.values.shape) != (n_layers, n_heads):
        condition = f"of {n_layers} layers of {n_heads} heads"
        raise checks.refuse("scores", condition, given.values, "pass those of this model")


def _card(model: Model, ids: Int[Tensor, " pos"]) -> dict[str, str]:
    """What is measured, and with what."""
    tokens = hashlib.sha256(ids.numpy().astype("<i8").tobytes()).hexdigest()
    packages = ("induction_lens", "torch", "transformer-lens")
    return {
        "Model": model_name(model),
        "Weights": f"SHA-256 {weights_hash(model)[:16]}…",
        "Tokens": f"{len(ids)}, SHA-256 {tokens[:16]}…",
        "Versions": ", ".join(f"{name} {version(name)}" for name in packages),
    }


def _listed(heads: Sequence[Head]) -> str:
    """Heads in a message: all of a few, else the first and the last."""
    return names_of(heads) if len(heads) <= 6 else f"the heads {heads[0]} to {heads[-1]} shown"
