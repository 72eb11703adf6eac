"""Models with heads knocked out in lm-evaluation-harness (Gao et al. 2024), which it takes.

`HookedLM` is what `lm_eval.simple_evaluate` takes as `model`. Inside `knocked_out` its forward
passes lack the heads, as all others do:

    lm = HookedLM(model)
    with il.knocked_out(model, heads, reference=text):
        without = lm_eval.simple_evaluate(lm, tasks=["lambada_openai"])

Without knock-outs it gives what the harness's own `HFLM` gives for the same model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from induction_lens import checks
from induction_lens.metrics import batches
from induction_lens.models import (
    Model,
    batch_size_for,
    bos_id,
    device_of,
    forward,
    model_name,
    running,
    shape,
    tokenizer_of,
)

try:
    from lm_eval import utils  # pyright: ignore[reportMissingImports]
    from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]
    from lm_eval.models.utils import (  # pyright: ignore[reportMissingImports]
        handle_stop_sequences,
        normalize_gen_kwargs,
        postprocess_generated_text,
    )
except ImportError as error:
    raise ImportError(
        f"expected lm-evaluation-harness, got none ({error}); pip install 'induction_lens[harness]'"
    ) from error

__all__ = ["HookedLM"]

_MOST_GENERATED = 256  # tokens, where a task does not say, as in HFLM
# what a task may ask for where the most probable token is taken
_GREEDY: Mapping[str, tuple[Any, ...]] = {
    "do_sample": (False,),
    "temperature": (0.0,),
    "num_beams": (1,),
}
_NO_MATTER = ("until", "max_gen_toks", "top_p", "top_k", "min_p", "use_cache")


class HookedLM(TemplateLM):
    """A hooked model as lm-evaluation-harness calls models."""

    def __init__(
        self,
        model: Model,
        *,
        add_bos_token: bool = False,
        batch_size: int | None = None,
        max_length: int | None = None,
    ) -> None:
        """Take a model, which stays the caller's.

        Args:
            model: A hooked model with a tokenizer.
            add_bos_token: Whether every context begins with BOS. The harness's `HFLM` leaves that
                to the tokenizer's files: GPT-2 and Pythia have none, Llama and Gemma have one.
            batch_size: Sequences per forward pass; None chooses by a memory budget. Only sequences
                of one length are run together, so that nothing is padded.
            max_length: Tokens that are read at most; None: the model's context.

        Raises:
            ValueError: The model has no tokenizer, or an option is out of range.
        """
        super().__init__()
        checks.model(model)
        self.model = model
        self.tokenizer = tokenizer_of(model)
        if self.tokenizer is None:
            raise ValueError(
                f"expected a model with a tokenizer, got {model_name(model)}, which has none; set "
                "model.tokenizer"
            )
        n_ctx = shape(model).n_ctx
        longest = checks.whole_number("max_length", max_length, least=2, most=n_ctx, optional=True)
        self.max_length = n_ctx if longest is None else longest
        self.add_bos_token = checks.flag("add_bos_token", add_bos_token)
        self._batch_size = checks.batch_size(batch_size)

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        eos = self.tokenizer.eos_token_id
        return bos_id(self.model) if eos is None else int(eos)

    @property
    def prefix_token_id(self) -> int:
        """The token before a text that has nothing before it."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        """A name for the harness's caches."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **options: Any
    ) -> list[int]:
        """The ids of a text, after BOS if that is wanted and not there."""
        del options
        ids = list(self.tokenizer.encode(string, add_special_tokens=False))
        wanted = self.add_bos_token if add_special_tokens is None else add_special_tokens
        if wanted and self.add_bos_token and ids[:1] != [self.prefix_token_id]:
            return [self.prefix_token_id, *ids]
        return ids

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """The log-probability of each whole text, in windows of `max_length` that do not overlap
        in what they predict."""
        found = []
        for request in requests:
            [text] = request.args
            windows = utils.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            parts = [(None, *utils.make_disjoint_window(window)) for window in windows]
            total = sum(score for score, _ in self._loglikelihood_tokens(parts))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
            found.append(total)
        return found

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, Sequence[int], Sequence[int]]], **options: Any
    ) -> list[tuple[float, bool]]:
        """The log-probability of each continuation after its context, and whether it is what the
        model finds most probable, token by token."""
        del options
        by_length: dict[int, list[int]] = defaultdict(list)
        rows = []
        for number, (_, context, continuation) in enumerate(requests):
            if len(continuation) > self.max_length:
                raise ValueError(
                    f"expected continuations of at most {self.max_length} tokens, got "
                    f"{len(continuation)}; take a task with shorter ones"
                )
            rows.append([*context, *continuation][-(self.max_length + 1) :])
            by_length[len(rows[-1])].append(number)
        found: dict[int, tuple[float, bool]] = {}
        for length, numbers in by_length.items():
            size = self._batch_size or batch_size_for(self.model, length)
            for part in batches(len(numbers), size):
                tokens = torch.tensor([rows[number] for number in numbers[part]], device="cpu")
                log_probs = self._log_probs(tokens[:, :-1])
                for number, of_row, ids in zip(numbers[part], log_probs, tokens, strict=True):
                    n = len(requests[number][2])
                    scored, wanted = of_row[length - 1 - n :], ids[length - n :]
                    total = float(scored.gather(1, wanted[:, None]).sum())
                    found[number] = total, bool((scored.argmax(-1) == wanted).all())
        for number, (asked, _, _) in enumerate(requests):
            if asked is not None:
                self.cache_hook.add_partial("loglikelihood", asked, found[number])
        return [found[number] for number in range(len(requests))]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The most probable text after each context, up to a stop sequence.

        Every token is a forward pass over the whole text, so that methods that look at several
        positions may be used.

        Raises:
            ValueError: A task asks for samples or beams, or leaves no room for a context.
        """
        found = []
        for request in requests:
            context, options = request.args
            text = self._generated(context, options)
            self.cache_hook.add_partial("generate_until", (context, options), text)
            found.append(text)
        return found

    def _generated(self, context: str, options: Mapping[str, Any]) -> str:
        asked: Mapping[str, Any] = normalize_gen_kwargs(dict(options), _MOST_GENERATED)
        for name, value in asked.items():
            if name not in _NO_MATTER and value not in _GREEDY.get(name, ()):
                raise ValueError(
                    f"expected a task that takes the most probable tokens, got {name}={value!r}; "
                    "set gen_kwargs='do_sample=False,temperature=0'"
                )
        most = int(asked["max_gen_toks"])
        if most >= self.max_length:
            raise ValueError(
                f"expected room for a context in {self.max_length} tokens, got a task that writes "
                f"{most}; set gen_kwargs='max_gen_toks={self.max_length // 2}'"
            )
        end = self.tokenizer.decode([self.eot_token_id], skip_special_tokens=False)
        stops = handle_stop_sequences(asked["until"], eos=end)
        read = self.tok_encode(context)[-(self.max_length - most) :]
        written: list[int] = []
        while len(written) < most:
            tokens = torch.tensor([[*read, *written]], device="cpu")
            written.append(int(self._log_probs(tokens)[0, -1].argmax()))
            if written[-1] == self.eot_token_id or _contains(self._decoded(written), stops):
                break
        return postprocess_generated_text(self._decoded(written), stops, None)

    def _decoded(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def _log_probs(self, tokens: Tensor) -> Tensor:
        """Log-probabilities after every token, on the CPU."""
        with running(self.model):
            logits = forward(self.model, tokens.to(device_of(self.model)))
        return logits.float().log_softmax(-1).cpu()


def _contains(text: str, stops: Iterable[str]) -> bool:
    return any(stop and stop in text for stop in stops)
