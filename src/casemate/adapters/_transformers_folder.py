# SPDX-License-Identifier: Apache-2.0
"""A folder as ``save_pretrained`` writes it becomes a model and its tokeniser, from the bytes that were looked at.

Nothing is fetched: the weights are given to the model as tensors, the files of the tokeniser lie in a folder of ours.
A configuration that names code of its own is refused, and so is one that asks for more numbers than the weights hold.
"""

from __future__ import annotations

import itertools
import json
import math
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from casemate.adapters._transformers_text import quiet
from casemate.core import pickles
from casemate.core.errors import HostileArtefact, InvalidData
from casemate.core.extras import needs

CONFIG, SAFE, INDEX, PICKLED = (
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
)
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
_MOST = 256 << 20  # bytes of a file that is no weights
_SWITCH = threading.RLock()  # whether the hub may be asked is one switch for the process
# settings that name kernels or code from elsewhere, or say how weights were squeezed
_DROPPED = ("attn_implementation", "experts_implementation", "transformers_version")


def is_folder(path: str | Path) -> bool:
    """Tell whether a folder holds a Hugging Face model; one with ``change.json`` is a hardened model's.

    >>> is_folder("/")
    False
    """
    return (Path(path) / CONFIG).is_file() and not (Path(path) / "change.json").is_file()


def loaded(path: str | Path, trust: Collection[str] = ()) -> tuple[Any, dict[str, str], tuple[str, ...]]:
    """Return model and tokeniser of a folder, where they came from, and what a reader must know.

    Raises:
        HostileArtefact: the folder names code of its own, or its weights would run code.
        InvalidData: no text classifier, or weights that do not fit it.
        MissingExtra: transformers or torch is not installed.
    """
    folder = Path(path)
    files = {CONFIG: pickles.read_file(folder / CONFIG, limit=_MOST)}
    for name in TOKENIZER:
        if (folder / name).is_file():
            files[name] = pickles.read_file(folder / name, limit=_MOST)
    said = {
        name: _object(raw, folder / name) for name, raw in files.items() if name in (CONFIG, TOKENIZER[1])
    }
    for name, told in said.items():
        if key := _code(told):
            raise HostileArtefact(
                f"{folder / name} names code of its own ({key}): it is not run; load the model yourself and give "
                "package.module:function"
            )
    if TOKENIZER[0] not in files:
        raise InvalidData(
            f"{folder} has no {TOKENIZER[0]}; save the tokenizer there: AutoTokenizer.from_pretrained(...)"
            ".save_pretrained(folder)"
        )
    weights, read, scan = _weights(folder, trust)
    model = _model(folder, said[CONFIG], weights)
    tokenizer = _tokenizer(folder, files)
    files |= read
    source = {
        "path": str(path),
        "sha256": pickles.digest_of_files(files),
        "format": "Hugging Face folder",
        "files": ",".join(sorted(files)),
    }
    if scan is not None and scan.trusted:
        source["trust"] = ",".join(scan.trusted)
    return (model, tokenizer), source, () if scan is None else pickles.notes(scan)


def _object(raw: bytes, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidData(f"{path} is no sound JSON ({error})") from error
    if not isinstance(found, dict):
        raise InvalidData(f"{path} is no configuration: a JSON object is expected")
    return found


def _code(told: Any) -> str:
    """Return the key under which a configuration names code of its own, at any depth; "" if there is none."""
    if isinstance(told, list):
        return next(filter(None, map(_code, told)), "")
    if not isinstance(told, dict):
        return ""
    own = next((key for key in ("auto_map", "custom_pipelines") if told.get(key)), "")
    return own or next(filter(None, map(_code, told.values())), "")


def _weights(
    folder: Path, trust: Collection[str]
) -> tuple[dict[str, Any], dict[str, bytes], pickles.Scan | None]:
    """Return the tensors, the bytes of the files they came from, and the scan of those that are a pickle."""
    from casemate.adapters.files import _torch_weights, weights_in

    names = [SAFE]
    read: dict[str, bytes] = {}
    if (folder / INDEX).is_file():
        read[INDEX] = pickles.read_file(folder / INDEX, limit=_MOST)
        listed = _object(read[INDEX], folder / INDEX).get("weight_map")
        names = sorted(set(map(str, listed.values()))) if isinstance(listed, dict) else []
        if not names or any(Path(name).name != name or not name.endswith(".safetensors") for name in names):
            raise InvalidData(f"{folder / INDEX} names no weights that lie beside it")
    elif not (folder / SAFE).is_file() and (folder / PICKLED).is_file():
        raw = pickles.read_file(folder / PICKLED)
        scan = pickles.scan(raw, trust=trust, name=PICKLED)
        pickles.refuse(scan)
        found = _torch_weights(raw, PICKLED)
        if not isinstance(found, dict) or not all(hasattr(value, "numel") for value in found.values()):
            raise InvalidData(f"{folder / PICKLED} is no state dict: a mapping from names to tensors")
        return found, {PICKLED: raw}, scan
    tensors: dict[str, Any] = {}
    for name in names:
        if not (folder / name).is_file():
            raise InvalidData(f"{folder} has no {name}; save the model again: model.save_pretrained(folder)")
        read[name] = pickles.read_file(folder / name)
        tensors.update(weights_in(read[name], name))
    return tensors, read, None


def _model(folder: Path, said: Mapping[str, Any], weights: dict[str, Any]) -> Any:
    """Build the classifier that the configuration describes and give it the weights; every one must be there."""
    hf = needs("transformers")
    torch = needs("torch")
    kind = said.get("model_type")
    if not isinstance(kind, str) or kind not in hf.CONFIG_MAPPING:
        raise InvalidData(
            f"{folder / CONFIG}: model_type {kind!r} is unknown to transformers {hf.__version__}; update it, or give "
            "package.module:function"
        )
    if said.get("quantization_config"):
        raise InvalidData(
            f"{folder} holds a quantised model; load it yourself and give package.module:function"
        )
    plain = _plain(said)
    if (deep := _largest(plain, "layer")) > len(weights):
        raise _bomb(folder, f"{deep:,} layers", len(weights))
    held = sum(map(_held, weights.values()))
    if (wide := _largest(plain, "num_labels")) > held:  # each is given a name before anything is built
        raise _bomb(folder, f"{wide:,} classes", held)
    try:
        with _offline():
            config = hf.CONFIG_MAPPING[kind].from_dict(plain)
            if type(config) not in hf.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
                raise InvalidData(
                    f"{folder}: a {kind!r} model classifies no texts in transformers {hf.__version__}"
                )
            built = hf.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
            with torch.device("meta"), _counted(folder, len(weights), held):  # shapes without memory
                sketch = built(config)
            asked = sum(math.prod(part.shape) for part in sketch.parameters())
            if asked > _most(held):
                raise _bomb(folder, f"{asked:,} numbers", held)
            asked = sum(math.prod(part.shape) for part in sketch.buffers())  # masks: places times places
            if asked > _most(held) + 10**8:
                raise _bomb(folder, f"{asked:,} numbers beside its weights", held)
            model, told = built.from_pretrained(
                None,
                config=config,
                state_dict=weights,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # named below
                local_files_only=True,
            )
    except (ImportError, InvalidData):
        raise
    except Exception as error:
        first = " ".join(str(error).split())[:200]
        raise InvalidData(f"{folder} cannot be built by transformers {hf.__version__}: {first}") from error
    if others := sorted(told["mismatched_keys"]):
        name, holds, wants = others[0]
        raise InvalidData(
            f"the weights of {folder} hold {name!r} of shape {tuple(holds)} and {CONFIG} describes {tuple(wants)}: see "
            "that both, and the number of classes (id2label), were saved together"
        )
    if lacking := sorted(told["missing_keys"]):
        raise InvalidData(
            f"the weights of {folder} lack {lacking[0]!r} ({len(lacking)} in all): it is no trained text classifier; "
            "an encoder needs a head: cm.wrap((encoder, tokenizer, head))"
        )
    return model.eval()


def _plain(told: Any) -> Any:
    """Return a configuration without the settings that are not believed, at any depth."""
    if isinstance(told, list):
        return [_plain(item) for item in told]
    if not isinstance(told, dict):
        return told
    kept = {key: value for key, value in told.items() if key not in _DROPPED and not key.startswith("_")}
    return {key: _plain(value) for key, value in kept.items()}


def _largest(told: Any, word: str) -> int:
    """Return the largest whole number under a key with this word in it, at any depth."""
    if isinstance(told, list):
        return max((_largest(item, word) for item in told), default=0)
    if not isinstance(told, dict):
        return 0
    own = [value for key, value in told.items() if word in key and type(value) is int]
    return max((*own, *(_largest(value, word) for value in told.values())), default=0)


def _held(tensor: Any) -> int:
    """Return how many numbers a tensor really holds: a pickle may show one of them a billion times."""
    stored: int = tensor.untyped_storage().nbytes() // tensor.element_size()
    return min(int(tensor.numel()), stored)


def _most(held: int) -> float:
    return 1.5 * held + 10**6  # tied weights stand once, and a missing head is named later


@contextmanager
def _counted(folder: Path, n: int, held: int) -> Iterator[None]:
    """Stop the building of a model of many more tensors than ``n``, or of one larger than ``held`` numbers allow."""
    from torch.nn.modules.module import register_module_parameter_registration_hook

    most, here, count = 8 * n + 1000, threading.get_ident(), itertools.count(1)

    def look(_module: Any, _name: str, part: Any) -> None:
        if part is None or threading.get_ident() != here:  # the hook is one for the process
            return
        if next(count) > most:
            raise _bomb(folder, f"more than {most:,} tensors", n)
        if (size := math.prod(part.shape)) > _most(held):
            raise _bomb(folder, f"{size:,} numbers", held)

    hook = register_module_parameter_registration_hook(look)
    try:
        yield
    finally:
        hook.remove()


def _bomb(folder: Path, what: str, held: int) -> InvalidData:
    return InvalidData(
        f"{folder / CONFIG} describes a model of {what} and the weights hold {held:,}: it is broken, or made to fill "
        "the memory"
    )


def _tokenizer(folder: Path, files: Mapping[str, bytes]) -> Any:
    hf = needs("transformers")
    with tempfile.TemporaryDirectory(prefix="casemate-") as place:
        for name, raw in files.items():
            (Path(place) / name).write_bytes(raw)
        try:
            with _offline():
                return hf.AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False)
        except Exception as error:
            first = " ".join(str(error).replace(place, str(folder)).split())[:200]
            raise InvalidData(f"the tokenizer of {folder} cannot be read: {first}") from error


@contextmanager
def _offline() -> Iterator[None]:
    """Let nothing that transformers does reach the hub."""
    switches = needs("huggingface_hub").constants
    with _SWITCH, quiet():
        before = switches.HF_HUB_OFFLINE
        switches.HF_HUB_OFFLINE = True
        try:
            yield
        finally:
            switches.HF_HUB_OFFLINE = before
