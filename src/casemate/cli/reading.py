# SPDX-License-Identifier: Apache-2.0
"""Reading what was typed: lists, methods with parameters, threats, paths that must be writable."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casemate.cli.speaking import known_language
from casemate.core.errors import InvalidData

if TYPE_CHECKING:
    from casemate.core.data import Dataset
    from casemate.core.methods import Spec
    from casemate.core.types import Target, Threat


def read_methods(texts: Sequence[str] | None, *, option: str = "--methods") -> list[Spec] | None:
    """Read ``lira:n_shadows=32,pgd:steps=40,restarts=2``.

    Commas separate. A piece that has ``=`` before any ``:`` is a further parameter of the method before it; any
    other piece begins a method. Values are whole numbers, numbers, true, false, none or text.

    >>> [(spec.name, dict(spec.params)) for spec in read_methods(["lira:n_shadows=32,a=1.5,pgd"])]
    [('lira', {'n_shadows': 32, 'a': 1.5}), ('pgd', {})]
    """
    from casemate.core.methods import Spec

    if texts is None:
        return None
    found: dict[str, dict[str, Any]] = {}
    current = ""
    for piece in (piece.strip() for text in texts for piece in text.split(",")):
        mark = re.search("[:=]", piece)
        if mark is None or mark.group() == ":":
            current, _, piece = piece.partition(":")
            if not current:
                raise InvalidData(f"{option} {','.join(texts)!r}: a method has no name")
            if current in found:
                raise InvalidData(f"{option} names {current!r} twice")
            found[current] = {}
            if mark is None:
                continue
        key, sign, value = piece.partition("=")
        if not current or not key.strip() or not sign or not value.strip():
            raise InvalidData(f"{option}: cannot read {piece!r}; write name:key=value,key=value")
        found[current][key.strip()] = _value(value.strip())
    return [Spec(name, params) for name, params in found.items()]


def read_threat(text: str | None) -> Threat | None:
    """Read ``norm=linf,radius=0.3,goal=1``.

    >>> read_threat("norm=l2,radius=0.5").norm
    'l2'
    """
    from casemate.core.types import Threat

    if text is None:
        return None
    forms: dict[str, type] = {"norm": str, "radius": float, "scale": str, "goal": int, "n_queries": int}
    return Threat(**_pairs("--threat", text, forms))


def is_endpoint(model: str) -> bool:
    """Tell whether MODEL is the address of an endpoint.

    >>> is_endpoint("https://models.example/v1/models/risk:predict"), is_endpoint("model.joblib")
    (True, False)
    """
    return model.lower().startswith(("https://", "http://"))


def read_endpoint(
    url: str, *, authorised: str | None, settings: str | None, classes: Sequence[str] | None
) -> Target:
    """Make a target of an address and of ``form=records,token=MODEL_TOKEN,n_queries=5000``."""
    from casemate import api
    from casemate.adapters.endpoint import Endpoint

    if not is_endpoint(url):
        raise InvalidData("--authorised, --endpoint and --classes are for a MODEL that is a URL")
    if authorised is None:
        raise InvalidData(
            "MODEL is an endpoint: say who allowed this audit and when: --authorised 'name, date'"
        )
    known = {
        "form": str, "outputs": str, "token": str, "n_queries": int, "batch_size": int, "per_second": float,
        "timeout_seconds": float, "retries": int, "wait_seconds": float,
    }  # fmt: skip
    values = _pairs("--endpoint", settings, known)
    outputs = values.pop("outputs", None)
    labels = [_value(name) for name in listed(classes)] or None
    return api.wrap(Endpoint(url=url, authorised=authorised, **values), outputs=outputs, classes=labels)


def read_data(
    train: Path, holdout: Path, *, size: str | None = None, pixels: str | None = None, **options: Any
) -> Dataset:
    """Read the data of a command; what the words mean is said by :meth:`Dataset.from_files`."""
    from casemate.core.data import Dataset

    for name in ("drop", "immutable", "sensitive"):
        options[name] = listed(options.get(name))
    options["missing"] = options.get("missing") or ()
    images: dict[str, Any] = {"size": read_size(size), "pixels": pixels or "unit"}
    return Dataset.from_files(train, holdout, **images, **options)


def read_size(text: str | None) -> tuple[int, int] | None:
    """Read ``28x32``, height and width.

    >>> read_size("28x32"), read_size(None)
    ((28, 32), None)
    """
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,5})[xX]([0-9]{1,5})", text.strip())
    if found is None:
        raise InvalidData(f"--size {text!r} must be height x width in pixels, such as 28x28")
    return int(found[1]), int(found[2])


def probed(target: Target, data: Dataset, *, outputs: bool) -> Target:
    """Send an endpoint one row, and return it as what it answers: scores or labels; ``outputs``: that was given."""
    from casemate import api
    from casemate.adapters.remote import RemoteTarget

    if not isinstance(target, RemoteTarget):
        return target
    place: Any = target.predict
    bound, coded = target.bind(data)
    rows = coded.schema.decode(coded.holdout.x[:1])
    answer = place.probe(rows)
    if not outputs:
        scored = answer.ndim == 2 and answer.shape[1] > 1 and answer.dtype.kind == "f"
        target = api.wrap(place, outputs="scores" if scored else "labels", classes=target.classes or None)
        bound, _ = target.bind(data)
    if answer.ndim == 2 and answer.shape[1] not in (1, len(bound.classes)):
        raise InvalidData(
            f"MODEL answered {answer.shape[1]} scores to a row, but there are {len(bound.classes)} classes: "
            f"{', '.join(map(str, bound.classes[:10]))}; name them in the order of the scores with --classes"
        )
    return target


def _pairs(option: str, text: str | None, forms: Mapping[str, type]) -> dict[str, Any]:
    """Read ``key=value,key=value`` of known keys, once each."""
    values: dict[str, Any] = {}
    for piece in text.split(",") if text is not None else ():
        key, sign, value = (part.strip() for part in piece.partition("="))
        if not sign or key not in forms or key in values:
            raise InvalidData(f"{option}: cannot read {piece!r}; keys, once each, are: {', '.join(forms)}")
        try:
            values[key] = forms[key](value)
        except ValueError:
            kind = "a whole number" if forms[key] is int else "a number"
            raise InvalidData(f"{option}: {key} must be {kind}; got {value!r}") from None
    return values


def _value(text: str) -> Any:
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for form in (int, float):
        with contextlib.suppress(ValueError):
            return form(text)
    return text


def listed(texts: Sequence[str] | None) -> list[str]:
    """Split comma-separated names."""
    return [name.strip() for text in texts or () for name in text.split(",") if name.strip()]


def options_of(lang: str, format_: str, *further: str) -> str:
    """Check --format (text, json or a further one) and return the language as the catalogue names it."""
    known_formats = ("text", "json", *further)
    if format_ not in known_formats:
        listed_formats = " or ".join([", ".join(known_formats[:-1]), known_formats[-1]])
        raise InvalidData(f"--format {format_!r} is unknown; use {listed_formats}")
    known = known_language(lang)
    if known is None:
        raise InvalidData(f"--lang {lang!r} is unknown; use en or zh-CN (also read from CASEMATE_LANG)")
    return known


def n_jobs_of(jobs: int | None) -> int:
    """Return the number of worker processes."""
    from joblib import cpu_count

    if jobs is not None and jobs < 1:
        raise InvalidData(f"--jobs must be 1 or more; got {jobs}")
    return int(jobs or cpu_count())


def writable(option: str, path: Path | None, suffix: str) -> None:
    """Refuse at once a path that could not be written after minutes of work."""
    import tempfile

    if path is None:
        return
    folder = path.parent
    if path.suffix.lower() != suffix:
        raise InvalidData(f"{option} {path} must end in {suffix}")
    if not folder.is_dir():
        raise InvalidData(f"{option} {path}: there is no folder {folder}; make it first")
    if path.exists() and not path.is_file():
        raise InvalidData(f"{option} {path}: it is there and not a plain file")
    try:
        with tempfile.TemporaryFile(dir=folder):  # asking for permissions is not enough: trying tells
            pass
    except OSError as error:
        raise InvalidData(
            f"{option} {path}: {folder} cannot be written ({error.strerror or error})"
        ) from error
