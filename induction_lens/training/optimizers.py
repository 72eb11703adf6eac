"""Optimizers of a toy model's weights, and their whole state on disk.

The weights are kept a second time as *masters*: attention and MLP matrices as whole matrices
[out, in], one for all heads, which is the shape that Muon's orthogonalisation means; everything
else as it is. An update moves the masters by the gradients in the model, and copies them back.
Masters have the same names and shapes for both TransformerLens classes.

Source: Muon (Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from induction_lens import checks
from induction_lens.models.from_scratch import toy_weights
from induction_lens.seals import read_tensors, write_tensors


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

    def save(self, path: Path, about: dict[str, Any], history: dict[str, Tensor]) -> None:
        """Write a checkpoint: masters, optimizer state, what was of every step, and `about`."""
        tensors = dict(history)
        for name, master in self.masters.items():
            tensors[f"master/{name}"] = master.detach().contiguous()
            for optimizer in self.optimizers:
                for key, value in optimizer.state.get(master, {}).items():
                    tensors[f"state/{name}/{key}"] = value.contiguous()
        write_tensors(path, tensors, about)

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
        ValueError: The optimizer is unknown.
    """
    checks.one_of("optimizer", optimizer, ("muon", "adamw"))
    masters = {
        name: nn.Parameter(_as_matrix(name, weight.detach()).float().clone())
        for name, weight in toy_weights(model).items()
    }
    by_muon = {
        name: optimizer == "muon" and (".attn.W_" in name or ".mlp.W_" in name) for name in masters
    }
    rest = [master for name, master in masters.items() if not by_muon[name]]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=learning_rate, betas=(0.9, 0.95), weight_decay=weight_decay)
    ]
    if optimizer == "muon":
        matrices = [master for name, master in masters.items() if by_muon[name]]
        optimizers.append(_Muon(matrices, muon_learning_rate))
    for each in optimizers:
        for group in each.param_groups:
            group["initial_lr"] = group["lr"]
    return Optimization(masters, tuple(optimizers))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a checkpoint, and what was said about them.

    Raises:
        ValueError: The file is damaged.
    """
    remedy = "delete it, or pass resume=False to start again"
    tensors, about = read_tensors(path, remedy=remedy)
    if "losses" not in tensors or not isinstance(about.get("settings"), dict):
        raise ValueError(f"expected a checkpoint, got {path}, which is none; {remedy}")
    return tensors, about


class _Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and without weight decay, as `torch.optim.Muon` has it.

    That one orthogonalises in bfloat16, which CPUs mostly emulate: with matrices of 256 × 256 it
    takes three quarters of a training step. This one uses float32 there.
    """

    def __init__(self, matrices: list[nn.Parameter], learning_rate: float, momentum: float = 0.95):
        super().__init__(matrices, {"lr": learning_rate, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move the matrices by their gradients."""
        for group in self.param_groups:
            momentum = group["momentum"]
            for matrix in group["params"]:
                state = self.state[matrix]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(matrix)
                mean = state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum)
                dtype = torch.float32 if matrix.device.type == "cpu" else torch.bfloat16
                step = _orthogonalised(matrix.grad.lerp(mean, momentum).to(dtype))
                n_out, n_in = matrix.shape
                matrix.add_(step, alpha=-group["lr"] * max(1, n_out / n_in) ** 0.5)


def _orthogonalised(matrix: Tensor) -> Tensor:
    """About the nearest orthogonal matrix: singular values between 0.7 and 1.2.

    Five steps of a Newton–Schulz iteration, with Jordan's coefficients.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(
            x, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445
        )
    return x.T if tall else x


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
