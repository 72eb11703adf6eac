"""A pretrained model's files: checked before they are read, and read without running their code.

The steps are the same for a local folder and a name on the Hugging Face hub: first the
configuration, and only then the weights and the tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from induction_lens import hub
from induction_lens.checks import first_line
from induction_lens.models.adapters import ADAPTER, WEIGHTS, Adapter, read_adapter
from induction_lens.models.families import STATE_SPACE, is_known, is_state_space, other_family
from induction_lens.models.memory import check_memory, parameters_in
from induction_lens.models.refusing import Refused, refusing
from induction_lens.models.surroundings import pickles_hold_weights_only

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_SHARDS = "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_CONVERT = (
    "convert it once, where you trust it: transformers' "
    "from_pretrained(folder).save_pretrained(folder)"
)
_AGAIN = "download the model again"
_UNPACKED = "mxfp4"  # of GPT-OSS: TransformerLens has transformers unpack it


@dataclass(frozen=True)
class Checkpoint:
    """A pretrained model that is not read yet.

    Attributes:
        name: The hub name, or the folder's path.
        folder: The folder; None for a name on the hub.
        config: Its Hugging Face configuration.
        trust_remote_code: Whether code beside the weights may run.
        pickles: Whether weights may be pickles where there are no safetensors; they are read as
            weights only, which runs no code.
        adapter: A LoRA adapter, which is merged into the weights when they are read.
    """

    name: str
    folder: Path | None
    config: Any
    trust_remote_code: bool
    pickles: bool = False
    adapter: Adapter | None = None

    def read_model(self, *, device: str, dtype: torch.dtype, device_map: Any = None) -> Any:
        """The Hugging Face model, with every weight from the files.

        Raises:
            ValueError: Files are missing, damaged, or do not hold all weights.
        """
        import transformers

        safe = True
        if self.folder is not None:
            safe = not self.pickles or _has_safetensors(self.folder)
            if safe:
                weights = _check_weight_files(self.folder)
                if device_map is None:
                    check_memory(self.name, parameters_in(weights), dtype=dtype, device=device)
        with (
            refusing("weights that transformers can read", self.name, _AGAIN),
            pickles_hold_weights_only(),
        ):
            read: Any = transformers.AutoModelForCausalLM.from_pretrained(
                self.name,
                dtype=dtype,
                attn_implementation="eager",  # others do not show their patterns
                use_safetensors=safe,
                device_map=device_map,
                trust_remote_code=self.trust_remote_code,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # which are refused below, with their names
            )
        model, report = read
        _refuse_other_sizes(self.name, report["mismatched_keys"])
        _refuse_made_up_weights(self.name, sorted(map(str, report["missing_keys"])))
        if self.adapter is not None:
            self.adapter.merge_into(model)
        if device_map is None:
            with refusing(f"a model that fits on {device}", self.name, "take another device"):
                model = model.to(device)
        # TransformerLens chooses its adapter by this, which files leave out or have wrong
        model.config.architectures = [type(model).__name__]
        return model

    def read_tokenizer(self) -> Any | None:
        """The folder's tokenizer, None where it has none.

        Raises:
            ValueError: Its files are damaged.
        """
        import transformers

        if self.folder is None or not any((self.folder / f).is_file() for f in _TOKENIZER_FILES):
            return None
        remedy = (
            f"{_AGAIN}, take the tokenizer's files away to load the model without one, or pass "
            "trust_remote_code=True where it brings code that you trust"
        )
        with refusing("a tokenizer that transformers can read", self.name, remedy):
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                self.folder, trust_remote_code=self.trust_remote_code
            )
            tokenizer("a")
        return tokenizer


def open_checkpoint(name: str, *, trust_remote_code: bool, pickles: bool = False) -> Checkpoint:
    """Read the configuration of a folder or a hub name, and refuse what cannot be used.

    Raises:
        ValueError: There is no such model, its configuration is damaged, it is not a decoder-only
            language model, or it needs code that is not trusted.
    """
    import transformers

    adapter = _adapter_of(name)
    if adapter is not None:
        base = _base_of(adapter)
        opened = open_checkpoint(base, trust_remote_code=trust_remote_code, pickles=pickles)
        if opened.adapter is not None:
            raise Refused(
                f"expected the base model of {name} to be complete, got {base}, an adapter too; "
                "merge that one first with peft's merge_and_unload()"
            )
        return replace(opened, adapter=adapter)
    folder = Path(name) if Path(name).exists() else None
    file = _config_in(folder) if folder is not None else _config_on_hub(name)
    raw = _read_json(file)
    kind = raw.get("model_type")
    if not isinstance(kind, str):
        raise Refused(
            f"expected a configuration with a model_type, got {file} without; pass the folder that "
            "save_pretrained wrote"
        )
    if is_state_space(kind):
        raise _other_family(name, kind, STATE_SPACE)
    if not is_known(kind) and not trust_remote_code:
        raise Refused(_unknown(name, kind, brings_code="auto_map" in raw))
    with refusing("a configuration that transformers can read", str(file), _AGAIN):
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    family = other_family(config)
    if family is not None:
        raise _other_family(name, kind, family)
    _refuse_quantised(name, raw)
    return Checkpoint(name, folder, config, trust_remote_code, pickles)


def check_model_folder(folder: Path) -> None:
    """Check that a folder holds a model or an adapter, by what its files are called.

    Raises:
        ValueError: It does not.
    """
    if not (folder / ADAPTER).is_file():
        _config_in(folder)


def _refuse_quantised(name: str, raw: dict[str, Any]) -> None:
    """Refuse packed weights: neither class of TransformerLens folds or splits them rightly."""
    packed = raw.get("quantization_config")
    if isinstance(packed, dict):
        kind = packed.get("quant_method") or ("bitsandbytes" if "load_in_4bit" in packed else "?")
        if kind != _UNPACKED:
            raise Refused(
                f"expected weights as plain numbers, got {name}, which is quantised ({kind}); pass "
                "the repository that it was made from, or save model.dequantize() as a new folder"
            )


def _other_family(name: str, kind: str, family: str) -> Refused:
    return Refused(
        f"expected a decoder-only language model, got {name}, {family} (model_type {kind}); "
        "pass one such as GPT-2, Pythia or Llama"
    )


def _unknown(name: str, kind: str, *, brings_code: bool) -> str:
    if brings_code:
        return (
            f"expected a model that transformers has the code of, got {name}, which brings its own "
            f"(model_type {kind}, auto_map in config.json); read that code, and if you trust it "
            "pass trust_remote_code=True"
        )
    return (
        f"expected a model_type that the installed transformers knows, got {kind!r} in {name}; "
        "update transformers, or correct config.json"
    )


def _config_in(folder: Path) -> Path:
    if (folder / _CONFIG).is_file():
        return folder / _CONFIG
    expected = "expected a folder with a model (config.json and weights)"
    if folder.is_file():
        raise Refused(f"{expected}, got the file {folder}; pass the folder that it is in")
    models = sorted(path for path in folder.iterdir() if (path / _CONFIG).is_file())
    if models:
        raise Refused(
            f"{expected}, got {folder}, which holds {len(models)}; pass one of them, such as "
            f"{models[-1]}, or all of them with induction_lens.suites.suite"
        )
    raise Refused(
        f"{expected}, got {folder}, which has no config.json; pass the folder that "
        "save_pretrained or a snapshot wrote"
    )


def downloaded(name: str, revision: str) -> Path:
    """A folder with the files of a revision, downloaded to the usual cache if they are not there.

    Raises:
        ValueError: There is no such revision (the nearest are named), or no answer of the hub.
    """
    from huggingface_hub import snapshot_download

    commit = hub.resolved(name, revision)
    files = hub.model_files([file.path for file in hub.files(name, commit)])
    if not files:
        raise Refused(
            f"expected a model (config.json and weights) in {name} at {revision}, got none; pass a "
            "revision that holds one"
        )
    with hub.explaining(name, revision):
        return Path(snapshot_download(name, revision=commit, allow_patterns=files))


def _config_on_hub(name: str) -> Path:
    from transformers.utils.hub import cached_file

    _check_hub_name(name)
    with _on_hub(name):
        return Path(str(cached_file(name, _CONFIG)))


def _adapter_of(name: str) -> Adapter | None:
    """The adapter in a folder or on the hub; None where there is none."""
    folder = Path(name)
    if folder.exists():
        is_adapter = (folder / ADAPTER).is_file()
        return read_adapter(name, folder / ADAPTER, folder / WEIGHTS) if is_adapter else None
    from transformers.utils.hub import cached_file
    from transformers.utils.peft_utils import find_adapter_config_file

    _check_hub_name(name)
    with _on_hub(name):
        config = find_adapter_config_file(name)
        if config is None:
            return None
        weights = cached_file(name, WEIGHTS, _raise_exceptions_for_missing_entries=False)
    return read_adapter(name, Path(config), Path(str(weights)))


def _base_of(adapter: Adapter) -> str:
    """The folder or the name of the base model; a revision of it is downloaded."""
    if adapter.revision is None or Path(adapter.base).exists():
        return adapter.base
    return str(downloaded(adapter.base, adapter.revision))


def _check_hub_name(name: str) -> None:
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
        raise Refused(f"expected a model, got the folder {name}, which does not exist")


@contextmanager
def _on_hub(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise Refused(
            f"expected a model of this package, a Hugging Face model name or a local folder, got "
            f"{name!r}, which could not be loaded ({first_line(error)}); check the "
            "spelling and the network, or download the model and pass its folder"
        ) from error


def _read_json(file: Path) -> dict[str, Any]:
    with refusing("a JSON object", str(file), _AGAIN):
        found = json.loads(file.read_bytes().decode("utf-8"))
        if not isinstance(found, dict):
            raise TypeError(f"it holds {type(found).__name__}")
    return found


def _has_safetensors(folder: Path) -> bool:
    return (folder / _WEIGHTS).is_file() or (folder / _SHARDS).is_file()


def _check_weight_files(folder: Path) -> list[Path]:
    """The files with weights; names missing and truncated ones, which transformers does not."""
    from safetensors import safe_open

    if (folder / _WEIGHTS).is_file():
        files = [_WEIGHTS]
    elif (folder / _SHARDS).is_file():
        files = _shards(folder / _SHARDS)
    else:
        raise Refused(_no_weights(folder))
    for file in files:
        if not (folder / file).is_file():
            raise Refused(
                f"expected all the files that {folder / _SHARDS} lists, got a folder without "
                f"{file}; {_AGAIN}"
            )
        with (
            refusing("complete weights", str(folder / file), _AGAIN),
            safe_open(folder / file, framework="pt"),
        ):
            pass  # opening reads the header, and compares it with the file's size
    return [folder / file for file in files]


def _shards(index: Path) -> list[str]:
    listed = _read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(f, str) for f in listed.values()):
        raise Refused(f"expected a weight_map of tensors to files, got none in {index}; {_AGAIN}")
    return sorted(set(listed.values()))


def _no_weights(folder: Path) -> str:
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLES)
    if pickles:
        return (
            f"expected weights as safetensors, got {folder / pickles[0]}, a pickle, which can run "
            f"code when it is read; {_CONVERT}"
        )
    return f"expected weights (model.safetensors), got {folder} without any; {_AGAIN}"


def _refuse_other_sizes(name: str, found: Iterable[Any]) -> None:
    """Refuse weights that have other sizes than the configuration says."""
    for weight, *sizes in sorted(found, key=str):
        in_file, by_config = (list(map(int, size)) for size in sizes)
        raise Refused(
            f"expected weights of the sizes that config.json gives, got {name} with {weight} of "
            f"{in_file}, where it says {by_config}; put the config.json beside them that they were "
            "saved with"
        )


def _refuse_made_up_weights(name: str, keys: Iterable[str]) -> None:
    """Refuse files that lack weights: transformers draws those at random, with only a warning."""
    keys = list(keys)
    if keys:
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        raise Refused(
            f"expected every weight of the model in its files, got {name} without "
            f"{', '.join(keys[:3])}{more}; pass a model that was saved completely, with its "
            "language modelling head"
        )
