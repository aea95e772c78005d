# SPDX-License-Identifier: Apache-2.0
"""How to repeat an audit: the call that asks for the same again, what the report did not keep, what will differ.

The page lists beside it what was kept (command, digests, seed, effort, versions, methods with their parameters). Here
is what a reader would otherwise find out by failing: that another machine gives other last digits, that under a
deadline a slower machine does less, that opaque ids are drawn anew. All of it is read from the report; plain text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from casemate.core.types import Threat
from casemate.report import words
from casemate.report.catalogue import Both
from casemate.report.model import Report

_LIBRARIES = {"scikit-learn": "scikit-learn", "torch": "torch", "XGBoost": "xgboost", "LightGBM": "lightgbm"}
_THREAT = tuple(f.name for f in fields(Threat))
_TEXTS: Mapping[str, tuple[str, str]] = {
    "heading_call": ("The same audit from Python", "用 Python 重复同一审计"),
    "heading_gaps": ("What this report did not keep", "本报告没有保存的内容"),
    "heading_differs": ("What differs elsewhere", "换一台机器会有哪些不同"),
    "public": (
        "What is needed to repeat the audit stands in the internal edition.",
        "重复审计所需的信息见内部版。",
    ),
    "rows": (
        "The rows themselves: bring the same rows in the same order.",
        "数据行本身：须提供相同的行，且顺序相同。",
    ),
    "no_command": (
        "A command line: the audit was started from Python.",
        "命令行：审计由 Python 程序启动。",
    ),
    "no_file": (
        "A model file: the model was in memory. Keep the one with the digest above.",
        "模型文件：模型只在内存中。请保留摘要值与上文相同的模型。",
    ),
    "no_version": ("The version of {name}.", "{name} 的版本。"),
    "digits": (
        "On one machine, with the same versions and threads, numbers repeat to the byte; elsewhere up to rounding.",
        "在同一台机器上，版本和线程数相同时，数值逐字节一致；在其他机器上仅在舍入误差范围内一致。",
    ),
    "seconds": ("Seconds.", "所用秒数。"),
    "ids": (
        "Opaque ids, and the keyed digest of the data, unless this report is given as like= (--like).",
        "不透明编号和带密钥的数据摘要值；以 like=（--like）指定本报告时除外。",
    ),
    "deadline": (
        "At effort quick there is a deadline: a slower machine does less work, unless the parameters above are given.",
        "测试强度为 quick 时有时限：较慢的机器完成的工作更少，除非指定上述参数。",
    ),
    "device": (
        "Another device computes in another order: last digits move, and attacks may take other paths.",
        "换用其他设备时计算顺序不同：末位数字会变化，攻击可能走不同的路径。",
    ),
    "noise": (
        "A model trained with private noise, if it is trained again: the noise has no seed. Audit the same model.",
        "带隐私噪声训练的模型在重新训练后会不同：噪声没有种子。请审计同一个模型。",
    ),
}


def section(report: Report) -> dict[str, Any]:
    """Return what the Reproduce part of a page adds to the facts: the call, the gaps, the differences."""
    return {
        "headings": {key: _say(f"heading_{key}") for key in ("call", "gaps", "differs")},
        "call": call(report),
        "gaps": list(gaps(report)),
        "differs": list(differs(report)),
    }


def call(report: Report) -> str | None:
    """Return Python that asks for the same audit again; None for a public edition, which lacks what it needs.

    ``target`` and ``data`` are the reader's: no report holds them.

    >>> report = Report(
    ...     created="2026-11-05T10:00:00+00:00",
    ...     version="0.1.0",
    ...     target={"digest": "ab"},
    ...     data={"n_train": 2, "n_holdout": 2, "digest": "cd"},
    ...     methods=({"name": "steal", "params": {"max_queries": 50}},),
    ... )
    >>> print(call(report))
    import casemate as cm
    again = cm.audit(
        target,
        data,
        methods=[
            cm.method('steal', max_queries=50),
        ],
        effort='standard',
        seed=0,
    )
    """
    if report.edition == "public":
        return None
    methods = [f"        {_method(item)}," for item in report.methods]
    lines = ["import casemate as cm", "again = cm.audit(", "    target,", "    data,"]
    lines += ["    methods=[", *methods, "    ],"]
    threat = {key: report.threat.get(key) for key in _THREAT} if report.threat else {}
    if given := {key: value for key, value in threat.items() if value is not None}:
        lines.append(f"    threat=cm.Threat({_keywords(given)}),")
    lines += [f"    effort={report.effort!r},", f"    seed={report.seed!r},", ")"]
    # ascii(): no character of a name can pass for another, or turn the direction of the line
    return "\n".join(lines)


def gaps(report: Report) -> Iterator[Both]:
    """Yield what is needed to repeat the audit and does not stand in the report."""
    if report.edition == "public":
        yield _say("public")
        return
    yield _say("rows")
    if report.command is None:
        yield _say("no_command")
    if not report.target.get("source"):
        yield _say("no_file")
    known = report.environment.get("packages")
    packages = known if isinstance(known, Mapping) else {}
    needed = _LIBRARIES.get(str(report.target.get("kind")))
    unknown = [str(name) for name, version in packages.items() if version in ("unknown", None, "")]
    for name in dict.fromkeys([*unknown, *([needed] if needed and needed not in packages else [])]):
        yield _say("no_version", name=words.visible(name, 60))


def differs(report: Report) -> Iterator[Both]:
    """Yield what will not be the same when the audit is repeated on another machine."""
    yield _say("digits")
    if report.target.get("kind") == "torch":
        yield _say("device")
    if report.effort == "quick":
        yield _say("deadline")
    if report.target.get("claims"):
        yield _say("noise")
    yield _say("ids")
    yield _say("seconds")


def _method(item: Mapping[str, Any]) -> str:
    params = item.get("params") or {}
    given = {key: value for key, value in params.items() if str(key).isidentifier() and _plain(value)}
    return f"cm.method({', '.join(filter(None, [ascii(str(item['name'])), _keywords(given)]))})"


def _keywords(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!a}" for key, value in values.items())


def _plain(value: Any) -> bool:
    """Tell whether a parameter stands in the report as itself; what was no JSON value stands there as <its type>."""
    if isinstance(value, str):
        return not (value.startswith("<") and value.endswith(">"))
    if isinstance(value, list):
        return all(map(_plain, value))
    return value is not None and not isinstance(value, Mapping)


def _say(key: str, **values: str) -> Both:
    en, zh = _TEXTS[key]
    return {"en": en.format(**values), "zh-CN": zh.format(**values)}
