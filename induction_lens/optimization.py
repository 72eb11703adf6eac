"""Optimizers of a toy model's weights, and their whole state on disk.

The weights are kept a second time as *masters*: attention and MLP matrices as whole matrices
[out, in], one for all heads, which is the shape that Muon's orthogonalisation means; everything
else as it is. An update moves the masters by the gradients in the model, and copies them back.
Masters have the same names and shapes for both TransformerLens classes.

Source: Muon (Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from induction_lens.files import atomic_path
from induction_lens.models.native import toy_weights


@dataclass(frozen=True)
class Optimization:
    """Master weights and the optimizers that move them."""

    masters: dict[str, nn.Parameter]
    """The weights, by their names in `toy_weights`."""
    optimizers: tuple[torch.optim.Optimizer, ...]
    """AdamW, and Muon where it is used; together they own every master once."""

    def update(self, model: Any, rate: float) -> None:
        """Move the weights by the gradients in the model, at `rate` times the peak rates."""
        gradients = toy_weights(model, of=lambda parameter: parameter.grad)
        for name, master in self.masters.items():
            master.grad = _as_matrix(name, gradients[name]).float()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * rate
            optimizer.step()
        self.copy_to(model)

    def copy_to(self, model: Any) -> None:
        """Write the masters into the model."""
        with torch.no_grad():
            for name, weight in toy_weights(model).items():
                weight.copy_(_as_weight(name, self.masters[name], weight.shape))

    def save(self, path: Path, about: dict[str, str], losses: list[float]) -> None:
        """Write a checkpoint: masters, optimizer state, losses, and what `about` says."""
        tensors = {"losses": torch.tensor(losses, dtype=torch.float64)}
        for name, master in self.masters.items():
            tensors[f"master/{name}"] = master.detach().contiguous()
            for optimizer in self.optimizers:
                for key, value in optimizer.state.get(master, {}).items():
                    tensors[f"state/{name}/{key}"] = value.contiguous()
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata=about)

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take masters and optimizer state from a checkpoint's tensors."""
        owners = {
            master: optimizer
            for optimizer in self.optimizers
            for group in optimizer.param_groups
            for master in group["params"]
        }
        for name, master in self.masters.items():
            with torch.no_grad():
                master.copy_(tensors[f"master/{name}"])
            prefix = f"state/{name}/"
            owners[master].state[master] = {
                # Step counters are scalars that stay on the CPU.
                key.removeprefix(prefix): value.to(master.device) if value.dim() else value
                for key, value in tensors.items()
                if key.startswith(prefix)
            }


def start(
    model: Any,
    optimizer: str,
    learning_rate: float,
    muon_learning_rate: float,
    weight_decay: float,
) -> Optimization:
    """Optimizers for a toy model, from its present weights.

    Args:
        model: A model made by `build_toy`.
        optimizer: "muon": Muon (momentum 0.95) for attention and MLP matrices, AdamW for the
            rest; "adamw": AdamW (betas 0.9 and 0.95) for everything.
        learning_rate: AdamW's peak learning rate.
        muon_learning_rate: Muon's peak learning rate.
        weight_decay: AdamW's weight decay.

    Raises:
        ValueError: The optimizer is unknown, or this torch has no Muon.
    """
    if optimizer not in ("muon", "adamw"):
        raise ValueError(f'expected optimizer "muon" or "adamw", got {optimizer!r}')
    masters = {
        name: nn.Parameter(_as_matrix(name, weight.detach()).float().clone())
        for name, weight in toy_weights(model).items()
    }
    by_muon = {
        name: optimizer == "muon" and (".attn.W_" in name or ".mlp.W_" in name) for name in masters
    }
    rest = [master for name, master in masters.items() if not by_muon[name]]
    made: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=learning_rate, betas=(0.9, 0.95), weight_decay=weight_decay)
    ]
    if optimizer == "muon":
        matrices = [master for name, master in masters.items() if by_muon[name]]
        made.append(_muon(matrices, muon_learning_rate))
    for one in made:
        for group in one.param_groups:
            group["initial_lr"] = group["lr"]
    return Optimization(masters, tuple(made))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a checkpoint, and what was said about them.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = {key: json.loads(value) for key, value in file.metadata().items()}
            return {key: file.get_tensor(key) for key in file.keys()}, about  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"expected a checkpoint, got {path}, which is damaged ({error}); delete it, or pass "
            "resume=False to start again"
        ) from error


def _muon(matrices: list[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    muon = getattr(torch.optim, "Muon", None)
    if muon is None:
        raise ValueError(
            f'expected torch 2.9 or later for optimizer="muon", got {torch.__version__}; '
            'install a newer torch, or train with optimizer="adamw"'
        )
    return muon(matrices, lr=learning_rate, momentum=0.95, weight_decay=0.0)


def _as_matrix(name: str, weight: Tensor) -> Tensor:
    """A weight as optimizers see it: a projection of all heads is one matrix [out, in]."""
    kind = name.rsplit(".", 1)[-1]
    if kind in ("W_Q", "W_K", "W_V"):  # from [head d_model d_head]
        return weight.transpose(1, 2).flatten(0, 1)
    if kind == "W_O":  # from [head d_head d_model]
        return weight.flatten(0, 1).T
    return weight.T if kind in ("W_in", "W_out") else weight


def _as_weight(name: str, matrix: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `_as_matrix`."""
    kind = name.rsplit(".", 1)[-1]
    if kind in ("W_Q", "W_K", "W_V"):
        n_heads, d_model, d_head = shape
        return matrix.view(n_heads, d_head, d_model).transpose(1, 2)
    if kind == "W_O":
        return matrix.T.reshape(shape)
    return matrix.T if kind in ("W_in", "W_out") else matrix
