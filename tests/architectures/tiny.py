"""Tiny models with random weights, biases and norms, as folders; and the tokens to try them on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from tests.architectures.cases import LENGTH, Case
from tests.hf_folders import tiny_tokenizer

BOS = 1
FIRST_ORDINARY_TOKEN = 3
SPREAD = 0.3
"""How far biases and norm weights lie from what they are at the start of training."""
STD_OF_EMBEDDINGS = 0.5
NORMS_OF_QUERIES_AND_KEYS = ("q_norm.", "k_norm.", "q_layernorm.", "k_layernorm.")
"""Without a larger weight these would leave attention nearly uniform."""


def write_folder(case: Case, folder: Path) -> None:
    """A random model of this architecture, as `save_pretrained` writes it."""
    random_model(case).save_pretrained(folder)
    if case.tokenizer:
        tiny_tokenizer().save_pretrained(folder)


def random_model(case: Case) -> Any:
    """With attention as written in the model's own file, which shows its patterns."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(case.model_type, **case.options)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    redraw(model, case.gain)
    return model.eval()


@torch.no_grad()
def redraw(model: torch.nn.Module, gain: float) -> None:
    """Draw every parameter anew, since zeros and ones hide faults.

    One dimension (norm weights, biases, sinks): what it was, and up to `SPREAD` to either side. Two
    and more (matrices): normal, so that what goes through is `gain` times as large.
    """
    generator = torch.Generator().manual_seed(1)
    stds = _stds(model, gain)
    biases = [buffer for name, buffer in model.named_buffers() if name.endswith("correction_bias")]
    for name, parameter in [*model.named_parameters(), *(("bias", bias) for bias in biases)]:
        if parameter.ndim < 2 or "bias" in name:
            away = 2 * torch.rand(parameter.shape, generator=generator) - 1
            parameter.add_(SPREAD * away)
        else:
            n_in = (
                parameter.shape[-1] * parameter.shape[-2]
            ) ** 0.5  # of experts, either way round
            std = stds.get(id(parameter), gain * n_in**-0.5)
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator))
        if any(part in name for part in NORMS_OF_QUERIES_AND_KEYS):
            parameter.mul_(gain)


def _stds(model: torch.nn.Module, gain: float) -> dict[int, float]:
    """The standard deviation for the weights of layers that say what goes in, by their `id`."""
    stds = {}
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            stds[id(module.weight)] = gain * module.in_features**-0.5
        elif isinstance(module, Conv1D):
            stds[id(module.weight)] = gain * module.nx**-0.5
    for module in model.modules():  # last: they may be tied to the unembedding
        if isinstance(module, torch.nn.Embedding):
            stds[id(module.weight)] = STD_OF_EMBEDDINGS
    return stds


def load_plain(folder: Path) -> Any:
    """The Hugging Face model of a folder, with attention as written in its own file."""
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    ).eval()


def sample_tokens(seed: int, n_sequences: int) -> Tensor:
    """BOS, then 32 tokens four times: in the same order, shuffled in each copy, or all shuffled.

    Every sequence has the same number of tokens that occurred before, so that a mean over all
    queries is the mean of the sequences' means.
    """
    generator = torch.Generator().manual_seed(seed)
    n_distinct = (LENGTH - 1) // 4
    rows = []
    for row in range(n_sequences):
        distinct = FIRST_ORDINARY_TOKEN + torch.randperm(110, generator=generator)[:n_distinct]
        copies = [distinct] * 4
        if row % 3 == 1:
            copies = [distinct[torch.randperm(n_distinct, generator=generator)] for _ in range(4)]
        ids = torch.cat(copies)
        if row % 3 == 2:
            ids = ids[torch.randperm(len(ids), generator=generator)]
        rows.append(torch.cat([torch.tensor([BOS]), ids]))
    return torch.stack(rows)
