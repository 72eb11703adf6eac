"""One training run, snapshot by snapshot: what `track` measures and the analyses read.

On disk a trajectory is one Parquet file with a row per snapshot. What has more than one number per
snapshot is a column of lists, flattened in the order of its axes; names, settings and shapes are in
the file's metadata, as JSON; so is the SHA-256 of the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lens import checks
from induction_lens.estimates import bootstrap_mean
from induction_lens.files import atomic_path
from induction_lens.heads import Head
from induction_lens.packing import Comparable
from induction_lens.seals import check, seal, with_seal
from induction_lens.style import Theme, themed
from induction_lens.tracking.drawing import induction_figure

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    import pyarrow as pa

METADATA = b"induction_lens.trajectory"
TRAJECTORY = "trajectory.parquet"
"""Its file in a folder."""
_ABOUT = ("name", "config", "seed", "early", "late", "window", "evaluation", "clamp")
_TENSORS = (
    "steps",
    "tokens_seen",
    "training_loss",
    "held_out_loss",
    "icl",
    "induction_by_sequence",
    "loss_by_position",
    "token_losses",
    "smear",
)
_TABLES = ("scores", "effects", "edges")
_REMEDY = "write one with Trajectory.save, or make one with induction_lens.track"


@dataclass(frozen=True, eq=False)
class Trajectory(Comparable):
    """One training run, measured at each of its snapshots on the same text and prompts.

    Examples:
        >>> run = il.tracking.Trajectory.read("runs/phase-2l-seed-0")
        >>> print(run)
        Trajectory(phase-2l-seed-0: 48 snapshots up to 8,998,912 tokens)
        >>> run.strongest()
        Head(layer=1, head=0)
        >>> [round(run.icl[i].mean().item(), 1) for i in (0, -1)]
        [0.0, -0.4]
    """

    name: str
    """Name of the run."""
    config: Mapping[str, Any]
    """The model: `ToyConfig.to_dict()`."""
    seed: int
    """Seed that the run's first weights were drawn with."""
    steps: Int[Tensor, " snapshot"]
    """Updates of the weights before each snapshot, rising."""
    tokens_seen: Int[Tensor, " snapshot"]
    """Training tokens before each snapshot, BOS included."""
    training_loss: Float[Tensor, " snapshot"]
    """Loss of the last training batch before each snapshot, nats per token; NaN at step 0."""
    held_out_loss: Float[Tensor, " snapshot"]
    """Mean loss of the evaluation text, nats per token."""
    icl: Float[Tensor, "snapshot sequence"]
    """ICL score of every evaluation sequence, averaged over windows, in nats."""
    early: int
    """Position of the early token of the ICL score."""
    late: int
    """Position of the late token."""
    window: int
    """Positions averaged on each side of both."""
    scores: Mapping[str, Float[Tensor, "snapshot layer head"]]
    """By detector: the score of every head (see `score_heads`)."""
    induction_by_sequence: Float[Tensor, "snapshot layer head prompt"]
    """Induction score of every head on each prompt of repeated random tokens; the mean over prompts
    is `scores["induction"]`."""
    effects: Mapping[str, Float[Tensor, "snapshot layer head"]]
    """By ablation method: what knocking out each head alone changes in the windowed ICL score, in
    nats (see `ablate_each_head`)."""
    loss_by_position: Float[Tensor, "snapshot pos"]
    """Mean over sequences of the loss at each position, in nats; NaN at 0, which nothing precedes.
    """
    token_losses: Float[Tensor, "snapshot example"]
    """Loss of the same tokens, chosen at random, in every snapshot, in nats (paper, "Per-token loss
    vectors"); from `track` and on disk at the precision of float16."""
    smear: Float[Tensor, "snapshot layer head"] | None
    """σ(α) of every head, its keys' share of their own position; None without smeared keys."""
    weights: tuple[str, ...]
    """SHA-256 of each snapshot's weights (see `models.weights_hash`)."""
    evaluation: str = ""
    """SHA-256 of the text, the prompts and the choice of `token_losses`: trajectories that share it
    were measured on the same tokens, so that their numbers can be paired."""
    clamp: tuple[Mapping[str, Any], ...] = ()
    """What was held at zero while the run was trained: `Clamp.to_dict()` of each clamp."""
    edges: Mapping[str, Float[Tensor, "snapshot layer head"]] = field(default_factory=dict)
    """The strongest edge into each head, from the weights, by `circuits.EDGE_MEASURES`. Empty in
    trajectories that were measured before it was."""

    def __repr__(self) -> str:
        """In one line: the run, its snapshots and tokens."""
        n = len(self.steps)
        last = int(self.tokens_seen[-1])
        return f"Trajectory({self.name}: {n} snapshots up to {last:,} tokens)"

    def strongest(self) -> Head:
        """The head with the highest induction score at the last snapshot."""
        last = self.scores["induction"][-1]
        return Head(*divmod(int(last.argmax()), last.shape[1]))

    def plot(self, *, theme: Theme | None = None) -> go.Figure:
        """The prefix-matching score of every head over training; those above 0.3 in colour.

        `plots` has more figures of a run: losses, knock-outs, edges, and runs beside each other.

        Raises:
            ValueError: If there is no such theme.
        """
        return themed(induction_figure(self), theme)

    def to_frame(self) -> pd.DataFrame:
        """One row per snapshot.

        Columns: `step`, `tokens_seen`; `training_loss`, `held_out_loss`, nats per token; `icl`, the
        mean ICL score in nats, with its 95% interval over sequences, `icl_low` and `icl_high`; and
        `induction`, the score of the head that is `strongest` at the end.
        """
        import pandas as pd

        estimates = [bootstrap_mean(scores) for scores in self.icl]
        head = self.strongest()
        return pd.DataFrame(
            {
                "step": self.steps.tolist(),
                "tokens_seen": self.tokens_seen.tolist(),
                "training_loss": self.training_loss.tolist(),
                "held_out_loss": self.held_out_loss.tolist(),
                "icl": [estimate.value for estimate in estimates],
                "icl_low": [estimate.low for estimate in estimates],
                "icl_high": [estimate.high for estimate in estimates],
                "induction": self.scores["induction"][:, head.layer, head.head].tolist(),
            }
        )

    @property
    def has_edges(self) -> bool:
        """Whether edges between heads were measured, and there are some."""
        return any(bool(values.isfinite().any()) for values in self.edges.values())

    def edges_frame(self) -> pd.DataFrame:
        """One row per snapshot and head from layer 1 on; none where edges were not measured.

        Columns: `step`, `tokens_seen`, `head`, `induction` (its score), `earlier` (the head of
        which it reads most through its keys), and its `k_composition`, `k_z` and `matching` (see
        `circuits.EDGE_MEASURES`).
        """
        import pandas as pd

        rows = []
        n_snapshots, n_layers, n_heads = self.scores["induction"].shape
        heads = [Head(layer, head) for layer in range(1, n_layers) for head in range(n_heads)]
        for index in range(n_snapshots if self.has_edges else 0):
            for head in heads:
                at = (index, head.layer, head.head)
                sender = float(self.edges["k_from"][at])
                row: dict[str, object] = {
                    "step": int(self.steps[index]),
                    "tokens_seen": int(self.tokens_seen[index]),
                    "head": str(head),
                    "induction": float(self.scores["induction"][at]),
                    "earlier": None
                    if math.isnan(sender)
                    else str(Head(*divmod(int(sender), n_heads))),
                }
                names = ("k_composition", "k_z", "matching")
                rows.append(row | {name: float(self.edges[name][at]) for name in names})
        return pd.DataFrame(rows)

    def save(self, path: str | Path) -> None:
        """Write the trajectory as one Parquet file, atomically.

        Everything comes back from `read` as it is, but `token_losses`, which become float16.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {name: getattr(self, name) for name in _TENSORS}
        columns["token_losses"] = self.token_losses.half()
        for group in _TABLES:
            columns |= {f"{group}.{name}": value for name, value in getattr(self, group).items()}
        columns = {name: value for name, value in columns.items() if value is not None}
        about = {name: getattr(self, name) for name in _ABOUT}
        about["config"] = dict(self.config)
        about["shapes"] = {name: list(value.shape[1:]) for name, value in columns.items()}
        arrays = {name: _to_arrow(value) for name, value in columns.items()}
        arrays["weights"] = pa.array(self.weights, pa.string())
        table = pa.table(arrays).replace_schema_metadata({METADATA: json.dumps(with_seal(about))})
        split: Any = _float32_columns(table.schema)  # stubs of pyarrow know a bool alone
        with atomic_path(path) as temporary:
            # Measured numbers hardly repeat: a dictionary of them makes the file larger. Their
            # exponents do: bytes of like significance, side by side, make it smaller.
            pq.write_table(
                table,
                temporary,
                compression="zstd",
                compression_level=19,
                use_dictionary=False,
                use_byte_stream_split=split,
                write_page_checksum=True,
            )
            seal(temporary)

    @classmethod
    def read(cls, path: str | Path) -> Trajectory:
        """Read what `save` wrote; `token_losses` come as float32 with float16's precision.

        Args:
            path: The file, or a folder with a `trajectory.parquet`, such as `track` writes to.

        Raises:
            ValueError: There is no such file, it is no trajectory, or it is damaged.
        """
        path = checks.path("path", path)
        path = path / TRAJECTORY if path.is_dir() else path
        table, about = _read_table(path)
        try:
            return cls._from_table(table, about)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ValueError(
                f"expected a trajectory in {path}, which is damaged ({error!r}); {_REMEDY}"
            ) from error

    load = read
    """As other results are read."""

    @classmethod
    def _from_table(cls, table: pa.Table, about: Mapping[str, Any]) -> Trajectory:
        columns = {name: _from_arrow(table[name], shape) for name, shape in about["shapes"].items()}
        columns["token_losses"] = columns["token_losses"].float()
        fields: dict[str, Any] = {name: about[name] for name in _ABOUT}
        fields["clamp"] = tuple(about["clamp"])
        fields |= {name: columns.get(name) for name in _TENSORS}
        for group in _TABLES:
            prefix = f"{group}."
            fields[group] = {
                name.removeprefix(prefix): value
                for name, value in columns.items()
                if name.startswith(prefix)
            }
        return cls(**fields, weights=tuple(table["weights"].to_pylist()))


def _read_table(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    """The table in a trajectory's file, and what its metadata says."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise ValueError(f"expected a trajectory, got {path}, which does not exist; {_REMEDY}")
    check(path, remedy=_REMEDY)
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"expected a Parquet file, got {path} ({error}); {_REMEDY}") from error
    metadata = table.schema.metadata or {}
    if METADATA not in metadata:
        raise ValueError(f"expected a trajectory, got {path}, another Parquet file; {_REMEDY}")
    try:
        return table, dict(json.loads(metadata[METADATA]))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"expected a trajectory in {path}, which is damaged ({error!r}); {_REMEDY}"
        ) from error


def _float32_columns(schema: pa.Schema) -> list[str]:
    """Where float32 numbers lie in a Parquet file: in columns, or in lists in columns."""
    import pyarrow as pa

    suffix = {pa.float32(): "", pa.list_(pa.float32()): ".list.element"}
    return [field.name + suffix[field.type] for field in schema if field.type in suffix]


def _to_arrow(values: Tensor) -> pa.Array:
    """[snapshot] as numbers, [snapshot ...] as one flat list per snapshot."""
    import pyarrow as pa

    flat = pa.array(values.detach().cpu().contiguous().flatten().numpy())
    if values.ndim == 1:
        return flat
    width = values[0].numel()
    offsets = pa.array(range(0, width * len(values) + 1, width), pa.int32())
    return pa.ListArray.from_arrays(offsets, flat)


def _from_arrow(column: pa.ChunkedArray, shape: list[int]) -> Tensor:
    import pyarrow as pa

    array = column.combine_chunks()
    if shape:
        assert isinstance(array, pa.ListArray)
        array = array.flatten()
    flat = torch.from_numpy(array.to_numpy(zero_copy_only=False).copy())
    return flat.view(-1, *shape)
