"""How public suites name their checkpoints: one class for each way, all in one list.

Where the numbers are from: tokens a step of Pythia and PolyPythias, Biderman et al. 2023; of
stanford-crfm's GPT-2, its batches of 512 sequences of 1024 tokens; of SmolLM2 and SmolLM3, their
model cards. OLMo writes tokens into the names of its branches, in whole billions.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from induction_lens.suites.integrity import LeftOut, check_labels


@dataclass(frozen=True)
class Label:
    """What the name of a branch says."""

    revision: str
    """The branch."""
    step: int
    """Updates of the weights."""
    tokens_seen: int
    """Training tokens."""


class Scheme(ABC):
    """A way to name checkpoints."""

    title: str
    """The suite in words."""
    examples: tuple[str, ...]
    """Some names, which an unknown one is compared with."""

    @abstractmethod
    def repo(self, name: str) -> str | None:
        """The repository that a name means; None where it is of another suite."""

    @abstractmethod
    def labels(self, repo: str, branches: Iterable[str]) -> tuple[list[Label], list[LeftOut]]:
        """The checkpoints among branches, by step; and the other branches but `main`."""


def seed_in(name: str) -> int:
    """The seed that a name tells (`pythia-160m-seed3`, `alias-gpt2-small-x21`); 0 where it tells
    none."""
    match = re.search(r"(?:seed-?|-x)(\d+)$", name)
    return int(match[1]) if match else 0


@dataclass(frozen=True)
class ByStep(Scheme):
    """Branches that name their step; each step is as many tokens."""

    title: str
    names: re.Pattern[str]
    """Of a repository, with or without its owner."""
    owner: str
    branch: re.Pattern[str]
    """Of a checkpoint; its last group is the step."""
    tokens_per_step: int | Mapping[str, int]
    """One number, or one for each size that stands in the name."""
    examples: tuple[str, ...] = ()

    def repo(self, name: str) -> str | None:
        """With its owner."""
        bare = name.removeprefix(f"{self.owner}/")
        return f"{self.owner}/{bare}" if self.names.fullmatch(bare) else None

    def labels(self, repo: str, branches: Iterable[str]) -> tuple[list[Label], list[LeftOut]]:
        """As `Scheme.labels`."""
        per_step = self.tokens_per_step
        if not isinstance(per_step, int):
            per_step = next(number for size, number in per_step.items() if size in repo)
        found, others = _matched(self.branch, branches)
        steps = {name: int(match.groups()[-1]) for name, match in found.items()}
        return _by_step([Label(name, n, n * per_step) for name, n in steps.items()], others)


@dataclass(frozen=True)
class ByTokens(Scheme):
    """Branches that name their step, and their tokens in whole billions."""

    title: str
    names: re.Pattern[str]
    owner: str
    branch: re.Pattern[str]
    """Of a checkpoint; its groups are the step and the billions of tokens."""
    examples: tuple[str, ...] = ()

    def repo(self, name: str) -> str | None:
        """With its owner."""
        bare = name.removeprefix(f"{self.owner}/")
        return f"{self.owner}/{bare}" if self.names.fullmatch(bare) else None

    def labels(self, repo: str, branches: Iterable[str]) -> tuple[list[Label], list[LeftOut]]:
        """As `Scheme.labels`; tokens are the steps times what most names say a step is."""
        del repo
        found, others = _matched(self.branch, branches)
        told = [(name, int(m[1]), 1e9 * int(m[2])) for name, m in found.items()]
        ratio, wrong = check_labels(told)
        labels = [
            Label(name, step, round(ratio * step)) for name, step, _ in told if name not in wrong
        ]
        return _by_step(labels, [*others, *wrong.values()])


def _matched(
    pattern: re.Pattern[str], branches: Iterable[str]
) -> tuple[dict[str, re.Match[str]], list[LeftOut]]:
    found = {name: pattern.fullmatch(name) for name in branches if name != "main"}
    others = [
        LeftOut(name, None, "name", "is not named like a checkpoint of this suite")
        for name, match in found.items()
        if match is None
    ]
    return {name: match for name, match in found.items() if match is not None}, others


def _by_step(labels: list[Label], others: list[LeftOut]) -> tuple[list[Label], list[LeftOut]]:
    """Labels in order; of several branches of one step, none can be told to be the right one."""
    steps = [label.step for label in labels]
    twice = [label for label in labels if steps.count(label.step) > 1]
    others = others + [
        LeftOut(label.revision, label.step, "label", f"names step {label.step}, as others do")
        for label in twice
    ]
    kept = [label for label in labels if label not in twice]
    return sorted(kept, key=lambda label: label.step), others


PYTHIA = ByStep(
    "Pythia and PolyPythias",
    re.compile(
        r"pythia-(14m|31m|70m|160m|410m|1b|1\.4b|2\.8b|6\.9b|12b)(-deduped)?(-v0)?(-seed[1-9])?"
    ),
    "EleutherAI",
    re.compile(r"step(\d+)"),
    2_097_152,
    (
        *(
            f"EleutherAI/pythia-{size}{kind}"
            for size in ("70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")
            for kind in ("", "-deduped")
        ),
        *("EleutherAI/pythia-14m", "EleutherAI/pythia-31m", "EleutherAI/pythia-160m-seed1"),
    ),
)
_SEEDS = ("alias", "battlestar", "caprica", "darkmatter", "expanse")
_LARGER = ("arwen", "beren", "celebrimbor", "durin", "eowyn")
_NUMBERS = (21, 49, 81, 343, 777)
CRFM = ByStep(
    "GPT-2 of stanford-crfm, five seeds of two sizes",
    re.compile(rf"({'|'.join(_SEEDS)})-gpt2-small-x\d+|({'|'.join(_LARGER)})-gpt2-medium-x\d+"),
    "stanford-crfm",
    re.compile(r"checkpoint-(\d+)"),
    524_288,
    (
        *(f"stanford-crfm/{a}-gpt2-small-x{n}" for a, n in zip(_SEEDS, _NUMBERS, strict=True)),
        *(f"stanford-crfm/{a}-gpt2-medium-x{n}" for a, n in zip(_LARGER, _NUMBERS, strict=True)),
    ),
)
SMOLLM2 = ByStep(
    "SmolLM2",
    re.compile(r"SmolLM2-(135M|360M|1\.7B)-intermediate-checkpoints"),
    "HuggingFaceTB",
    re.compile(r"step-(\d+)"),
    {"135M": 1_048_576, "360M": 1_572_864, "1.7B": 2_097_152},
    tuple(
        f"HuggingFaceTB/SmolLM2-{size}-intermediate-checkpoints"
        for size in ("135M", "360M", "1.7B")
    ),
)
SMOLLM3 = ByStep(
    "SmolLM3",
    re.compile(r"SmolLM3-3B-checkpoints"),
    "HuggingFaceTB",
    re.compile(r"stage(?:[123])-step-(\d+)"),
    2_359_296,
    ("HuggingFaceTB/SmolLM3-3B-checkpoints",),
)
OLMO = ByTokens(
    "OLMo and OLMoE, their first stage",
    re.compile(r"OLMo(E)?-.*"),
    "allenai",
    re.compile(r"(?:stage1-)?step(\d+)-tokens(\d+)B"),
    (
        *("allenai/OLMo-2-0425-1B", "allenai/OLMo-2-1124-7B", "allenai/OLMo-2-1124-13B"),
        *("allenai/OLMo-2-0325-32B", "allenai/OLMo-1B-0724-hf", "allenai/OLMoE-1B-7B-0924"),
        "allenai/OLMo-2-0425-1B-early-training",
    ),
)
SCHEMES: list[Scheme] = [PYTHIA, CRFM, SMOLLM2, SMOLLM3, OLMO]
"""All that are known; append your own."""
OWN_FORMAT = (
    *(f"NeelNanda/Attn_Only_{n}L512W_C4_Code" for n in (1, 2, 3, 4)),
    *(f"NeelNanda/GELU_{n}L512W_C4_Code" for n in (1, 2, 3, 4)),
    *(f"NeelNanda/SoLU_{n}L512W_C4_Code" for n in (1, 2, 3, 4)),
    "NeelNanda/Attn-Only-2L512W-Shortformer-6B-big-lr",
)
"""Some suites in TransformerLens's own format; a file names its tokens."""


def any_branches(repo: str, tokens_per_step: int) -> Scheme:
    """The scheme of a repository of one's own: the last number in a branch's name is the step."""
    owner, _, name = repo.partition("/")
    return ByStep(
        repo,
        re.compile(re.escape(name)),
        owner,
        re.compile(r"(?:.*\D)?(\d+)"),
        tokens_per_step,
    )
