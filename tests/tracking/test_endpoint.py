"""What a trained model depends on, as rows that are read back as they were written."""

import json

import pytest
import torch

from induction_lens.ablation.methods import METHODS
from induction_lens.ablation.sets import ablate, ablate_by_methods
from induction_lens.toys.model import ToyConfig, build_toy
from induction_lens.tracking.final_model import measure_end, read_end, write_end
from induction_lens.tracking.ngrams import count_ngrams, ngram_control
from tests.reference_model import D_VOCAB, N_CTX

WHERE = {"early": 8, "late": 30, "window": 3}


def _text(n: int, seed: int) -> torch.Tensor:
    """Sequences that repeat themselves after 13 tokens."""
    generator = torch.Generator().manual_seed(seed)
    copy = torch.randint(1, D_VOCAB, (n, 13), generator=generator)
    return torch.cat([torch.zeros(n, 1).long(), copy, copy, copy], dim=1)[:, :N_CTX]


def test_the_induction_head_is_found_and_knocked_out_by_every_method(circuit):
    text, training = _text(9, 0), _text(30, 1)
    rows = measure_end(circuit, text, training=training, seed=2, **WHERE)
    tested = [row for row in rows["knockouts"] if row["set"] == "tested"]
    assert [row["method"] for row in tested] == list(METHODS)
    studies = ablate_by_methods(
        circuit, ["1.0"], text, n_controls=2, seed=2, estimator="paper", **WHERE
    )
    for row in tested:
        study = studies[row["method"]]
        assert (row["heads"], row["are_induction_heads"], row["rank"]) == ("1.0", True, 1)
        for name in ("clean", "ablated", "effect"):
            estimate = getattr(study, name)
            assert row[name] == estimate.value
            assert (row[f"{name}_low"], row[f"{name}_high"]) == (estimate.low, estimate.high)
        assert row["clean"] < -3.0  # late tokens are repeats, early ones are not
        assert row["effect"] > 3.0
        controls = [
            (other["control_heads"], other["effect"])
            for other in rows["knockouts"]
            if other["method"] == row["method"] and other["set"] == "control"
        ]
        assert controls == [(str(c.heads[0]), c.effect.value) for c in study.controls]
        assert [heads for heads, _ in controls] == ["1.1", "1.2"]
    tables = count_ngrams(training, d_vocab=D_VOCAB)
    control = ngram_control(circuit, ["1.0"], text, tables, n_tokens=10, seed=2, progress=False)
    assert rows["ngrams"] == control.to_frame().to_dict("records")
    assert measure_end(circuit, text, **WHERE)["ngrams"] == []


def test_without_induction_heads_the_strongest_candidate_is_taken(tmp_path):
    config = ToyConfig(n_layers=1, d_model=8, n_heads=2, d_vocab=D_VOCAB, n_ctx=N_CTX)
    model = build_toy(config, device="cpu")
    rows = measure_end(model, _text(5, 0), **WHERE)
    first = rows["knockouts"][0]
    assert not first["are_induction_heads"]
    assert first["heads"] in ("0.0", "0.1")
    study = ablate(
        model, first["heads"], _text(5, 0), method=first["method"], estimator="paper", **WHERE
    )
    assert first["effect"] == pytest.approx(study.effect.value, abs=1e-6)
    write_end(rows, tmp_path)
    assert read_end(tmp_path) == rows


def test_a_file_that_is_missing_or_damaged(tmp_path):
    assert read_end(tmp_path) is None
    (tmp_path / "endpoint.json").write_text(json.dumps({"knockouts": []})[:-4])
    with pytest.raises(ValueError, match=r"expected JSON in .*endpoint\.json, which is damaged"):
        read_end(tmp_path)
