"""What heads do on one prompt, by plain Hugging Face code and loops; and what a page holds."""

from __future__ import annotations

import base64
import json
import re
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass
class Plain:
    """The right numbers of every head: attention, lengths of values, and logit attribution."""

    pattern: Tensor  # [layer head query key]
    norm: Tensor  # [layer head key]
    logits: Tensor  # [layer head query key], of queries that a token follows
    direct: Tensor  # [layer head query]: what the head's whole output adds to the next logit


def plain_numbers(hf_model: Any, ids: Tensor) -> Plain:
    """Of a GPT-2 or a Llama, from its own weights as they are in its folder."""
    read = _GPT2(hf_model) if hf_model.config.model_type == "gpt2" else _Llama(hf_model)
    values: dict[int, Tensor] = {}
    final: list[Tensor] = []
    handles = [
        module.register_forward_hook(
            lambda _, __, out, layer=layer: values.__setitem__(layer, out[0])
        )
        for layer, module in enumerate(read.value_modules)
    ]
    handles.append(read.norm.register_forward_pre_hook(lambda _, args: final.append(args[0][0])))
    with torch.no_grad():
        out = hf_model(ids[None], output_attentions=True)
    for handle in handles:
        handle.remove()
    pattern = torch.stack(out.attentions)[:, 0]
    n_layers, n_heads, n_pos, _ = pattern.shape
    norm = torch.zeros(n_layers, n_heads, n_pos)
    logits = torch.zeros(n_layers, n_heads, n_pos - 1, n_pos)
    direct = torch.zeros(n_layers, n_heads, n_pos - 1)
    for layer in range(n_layers):
        for head in range(n_heads):
            written = read.values(values[layer], head) @ read.output(layer, head)
            norm[layer, head] = read.centred(written).norm(dim=-1)
            for query in range(n_pos - 1):
                mixed = pattern[layer, head, query] @ written
                direct[layer, head, query] = _raised(read, mixed, final[0][query], ids[query + 1])
                for key in range(query + 1):
                    part = pattern[layer, head, query, key] * written[key]
                    raised = _raised(read, part, final[0][query], ids[query + 1])
                    logits[layer, head, query, key] = raised
    return Plain(pattern, norm, logits, direct)


def _raised(read: Any, part: Tensor, final: Tensor, token: Tensor) -> Tensor:
    """How a part of the residual stream raises a token's logit above the mean, the scale frozen."""
    normed = read.centred(part) * read.norm.weight / read.scale(final)
    logits = read.unembed @ normed
    return (logits[token] - logits.mean()).detach()


class _GPT2:
    def __init__(self, model: Any) -> None:
        body = model.transformer
        self.value_modules = [block.attn.c_attn for block in body.h]
        self.outputs = [block.attn.c_proj.weight.detach() for block in body.h]
        self.norm, self.unembed = body.ln_f, model.lm_head.weight.detach()
        self.width = model.config.n_embd // model.config.n_head

    def values(self, out: Tensor, head: int) -> Tensor:
        third = out.shape[-1] // 3
        return out[:, 2 * third + head * self.width :][:, : self.width]

    def output(self, layer: int, head: int) -> Tensor:
        return self.outputs[layer][head * self.width :][: self.width]

    @staticmethod
    def centred(x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True)

    def scale(self, final: Tensor) -> Tensor:
        return (final.var(unbiased=False) + self.norm.eps).sqrt()


class _Llama:
    def __init__(self, model: Any) -> None:
        body, config = model.model, model.config
        self.value_modules = [layer.self_attn.v_proj for layer in body.layers]
        self.outputs = [layer.self_attn.o_proj.weight.detach().T for layer in body.layers]
        self.norm, self.unembed = body.norm, model.lm_head.weight.detach()
        self.width = config.hidden_size // config.num_attention_heads
        self.group = config.num_attention_heads // config.num_key_value_heads

    def values(self, out: Tensor, head: int) -> Tensor:
        return out[:, head // self.group * self.width :][:, : self.width]

    def output(self, layer: int, head: int) -> Tensor:
        return self.outputs[layer][head * self.width :][: self.width]

    @staticmethod
    def centred(x: Tensor) -> Tensor:
        return x

    def scale(self, final: Tensor) -> Tensor:
        return (final.square().mean() + self.norm.variance_epsilon).sqrt()


class Page:
    """The numbers in a page, read as a browser reads them."""

    def __init__(self, html: str) -> None:
        found = re.findall(r'<script type="([^"]+)" id="([^"]+)">(.*?)</script>', html, re.DOTALL)
        texts = {name: text for _, name, text in found}
        self.view = json.loads(texts.pop("view"))
        self.bytes = {name: zlib.decompress(base64.b64decode(text)) for name, text in texts.items()}
        self.n = len(self.view["tokens"])

    def codes(self, name: str) -> np.ndarray:
        return np.frombuffer(self.bytes[name], dtype=np.uint8)

    def floats(self, name: str) -> np.ndarray:
        return np.frombuffer(self.bytes[name], dtype="<f4")

    def pattern(self, index: int) -> np.ndarray:
        return self._square(self.codes(f"pattern-{index}"), self.n) / 255

    def rest(self, index: int) -> np.ndarray:
        return self.codes(f"pattern-{index}")[-self.n :] / 255

    def weighted(self, index: int) -> np.ndarray:
        return self.pattern(index) * self.floats(f"norms-{index}")

    def logits(self, index: int) -> np.ndarray:
        codes = self._square(self.codes(f"logits-{index}").astype(float) - 128, self.n - 1)
        return codes / 127 * self.view["units"][index]

    def targets(self) -> set[tuple[int, int]]:
        pairs = np.frombuffer(self.bytes["targets"], dtype="<u2").reshape(-1, 2)
        return {(int(query), int(key)) for query, key in pairs}

    def _square(self, codes: np.ndarray, n_rows: int) -> np.ndarray:
        square = np.zeros((n_rows, self.n))
        at = 0
        for query in range(n_rows):
            square[query, : query + 1] = codes[at : at + query + 1]
            at += query + 1
        return square
