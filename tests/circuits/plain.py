"""Plain Hugging Face models with torch's own hooks: what edges are compared with."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from pathlib import Path

import torch
import transformers

from tests.hf_folders import CONFIGS, random_model

N_POS = 19


class Plain:
    """A Hugging Face model, its heads' outputs and inputs in reach of torch's hooks."""

    def __init__(self, name, tokens):
        self.name = name
        self.model = plain_model(name)
        self.tokens = tokens
        config = self.model.config
        self.n_heads = config.num_attention_heads
        self.n_kv = getattr(config, "num_key_value_heads", None) or self.n_heads
        self.layers = {
            "gpt2": lambda: self.model.transformer.h,
            "llama": lambda: self.model.model.layers,
            "neox": lambda: self.model.gpt_neox.layers,
        }[name]()

    def attention(self, layer):
        block = self.layers[layer]
        return {"gpt2": "attn", "llama": "self_attn", "neox": "attention"}[self.name], block

    def module(self, layer, which):
        name, block = self.attention(layer)
        attention = getattr(block, name)
        paths = {
            "gpt2": {"out": "c_proj", "q": "c_attn", "k": "c_attn", "v": "c_attn"},
            "llama": {"out": "o_proj", "q": "q_proj", "k": "k_proj", "v": "v_proj"},
            "neox": dict(
                out="dense", q="query_key_value", k="query_key_value", v="query_key_value"
            ),
        }[self.name]
        return block.mlp if which == "mlp" else getattr(attention, paths[which])

    def part(self, flat, which, head):
        """Where a head's queries, keys or values lie in what its projection gives: a view."""
        key_head = head // (self.n_heads // self.n_kv)
        if self.name == "gpt2":
            return flat.unflatten(-1, (3, self.n_heads, -1))[:, :, "qkv".index(which), head]
        if self.name == "neox":
            return flat.unflatten(-1, (self.n_heads, 3, -1))[:, :, head, "qkv".index(which)]
        n = self.n_heads if which == "q" else self.n_kv
        return flat.unflatten(-1, (n, -1))[:, :, head if which == "q" else key_head]

    @torch.no_grad()
    def run(self, tokens=None, *, z=None, mlp=None, inputs=None):
        """One pass. What is given is written: outputs of heads by layer, outputs of MLPs by layer,
        and ((layer, head, which), value) for an input of a head. What was there is kept."""
        kept = {"z": {}, "mlp": {}, "q": {}, "k": {}, "v": {}}
        with contextlib.ExitStack() as stack:
            for layer in range(len(self.layers)):

                def out(module, args, layer=layer):
                    kept["z"][layer] = args[0].unflatten(-1, (self.n_heads, -1)).clone()
                    if z is not None and layer in z:
                        return (z[layer](kept["z"][layer].clone()).flatten(-2), *args[1:])

                def through(module, args, output, layer=layer):
                    kept["mlp"][layer] = output.clone()
                    return mlp[layer] if mlp is not None and layer in mlp else None

                hook = self.module(layer, "out").register_forward_pre_hook(out)
                stack.callback(hook.remove)
                hook = self.module(layer, "mlp").register_forward_hook(through)
                stack.callback(hook.remove)
                for which in "qkv":

                    def project(module, args, output, layer=layer, which=which):
                        kept[which][layer] = output.clone()
                        if inputs is not None and inputs[0][0] == layer and inputs[0][2] == which:
                            changed = output.clone()
                            self.part(changed, which, inputs[0][1]).copy_(inputs[1])
                            return changed

                    hook = self.module(layer, which).register_forward_hook(project)
                    stack.callback(hook.remove)
            given = self.tokens if tokens is None else tokens
            output = self.model(given, use_cache=False, output_attentions=True)
        return kept, output

    def patched(self, sender, receiver, which, other_z, *, through_mlps):
        """Losses with an edge patched, and the receiver's pattern: three plain passes."""
        base, _ = self.run()

        def written(z):  # all heads frozen to the clean run, but the sender
            z = z.clone()
            z[:, :, sender.head] = other_z[sender.layer][:, :, sender.head]
            return z

        frozen = {n: (lambda z, n=n: base["z"][n]) for n in base["z"]}
        frozen[sender.layer] = lambda z: written(base["z"][sender.layer])
        mlp = None if through_mlps else base["mlp"]
        step, _ = self.run(z=frozen, mlp=mlp)
        value = self.part(step[which][receiver.layer], which, receiver.head)
        # a copy of its own: what the receiver puts out when its group's input is replaced …
        alone, output = self.run(inputs=((receiver.layer, receiver.head, which), value))
        own = alone["z"][receiver.layer][:, :, receiver.head]
        pattern = output.attentions[receiver.layer][:, receiver.head]

        def only_receiver(z):  # … written for the receiver alone
            z[:, :, receiver.head] = own
            return z

        _, output = self.run(z={receiver.layer: only_receiver})
        return losses(output.logits, self.tokens), pattern


def losses(logits, tokens):
    return torch.nn.functional.cross_entropy(logits[:, :-1].mT, tokens[:, 1:], reduction="none")


@functools.cache
def plain_model(name):
    with tempfile.TemporaryDirectory() as folder:
        random_model(CONFIGS[name]).save_pretrained(Path(folder))
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="eager", dtype=torch.float32
        ).eval()


def drawn(seed, n_rows=3):
    """Sequences in which tokens come again."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(260, 300, (n_rows, N_POS), generator=generator)
    ids[:, 10:] = ids[:, 1:10]
    ids[:, 0] = 0
    return ids
