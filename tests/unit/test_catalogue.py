# SPDX-License-Identifier: Apache-2.0
"""Every English sentence of the source has its Chinese, and is found again in what a user reads."""

from __future__ import annotations

import re
import string
import subprocess
import sys
import time
from collections import Counter

import pytest
import sentences
from sentences import latin_run, missing, of_text, translated

from casemate.report.catalogue import said, texts
from casemate.report.catalogue.sayings import LONGEST, in_chinese

KEYS = {key: chinese for keys in translated().values() for key, chinese in keys.items()}
HAN = re.compile(r"[\u4e00-\u9fff]")


@pytest.fixture(scope="session")
def heavy_imports() -> None:
    """Read the source once, outside any test's limit; nothing that is slow to import is needed."""
    sentences.everything()


def holes(text: str) -> list[str]:
    return [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]


# ---------------------------------------------------------------------- complete, and nothing dead


@pytest.mark.parametrize(
    "package", sorted({sentences.package(path) for path in sentences.SOURCE.rglob("*.py")})
)
def test_every_sentence_of_the_source_has_its_chinese(package: str) -> None:
    lacking = [f"{skeleton}  ({where})" for _, skeleton, where in missing(package)]
    assert not lacking, "\n".join(lacking)


def test_every_key_still_stands_in_the_source() -> None:
    standing = {*sentences.constants(), *texts("en").values()}  # errors quote a few texts of the page
    ours = [key for name, keys in translated().items() if name != sentences.FOREIGN for key in keys]
    dead = [key for key in ours if not {key, key.removeprefix("{} ")} & standing]
    assert not dead, "\n".join(dead)


def test_no_sentence_stands_in_two_files() -> None:
    files = translated()
    assert sum(map(len, files.values())) > 1000
    count = Counter(key for keys in files.values() for key in keys)
    assert not [key for key, n in count.items() if n > 1]


def test_holes_agree() -> None:
    wrong = [
        key
        for key, chinese in KEYS.items()
        if set(holes(key)) > {""} or sorted(holes(chinese)) != sorted(map(str, range(len(holes(key)))))
    ]
    assert not wrong


def test_what_is_chinese_is_chinese() -> None:
    assert not [key for key, chinese in KEYS.items() if not HAN.search(chinese)]
    leaks = {key: run for key, chinese in KEYS.items() if (run := latin_run(chinese))}
    assert not leaks, str(leaks)


def test_the_stop_at_the_end_is_that_of_the_english() -> None:
    wrong = [key for key, chinese in KEYS.items() if key.endswith(".") != chinese.endswith("。")]
    assert not [key for key in wrong if not key.endswith("...")]


@pytest.mark.parametrize("exempt", sorted(sentences.EXEMPT), ids=lambda text: re.sub(r"\W+", "-", text)[:30])
def test_an_exemption_is_of_something_that_exists(exempt: str) -> None:
    assert exempt in sentences.constants()


# ---------------------------------------------------------------------- the extractor


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("raise E('one two three')", {"one two three"}),
        ("raise E('no rows')", {"no rows"}),  # two words, where they are surely read
        ("x = 'no rows'", set()),
        ("raise E(f'has {n} rows' f' of {m!r}')", {"has {} rows of {}"}),
        ("raise E(f'all {n} row' + ('s' if n > 1 else '') + ' go')", {"all {} row go", "all {} rows go"}),
        ("raise E(f'the {a or \"none at all\"} of it')", {"the {} of it", "the none at all of it"}),
        ("raise E(f'kept by {f(\"one two three\")} only')", {"kept by {} only", "one two three"}),
        ("raise E(f'{tag}{name} ran with {k}')", {"{} ran with {}"}),
        ("why = 'a b c d' if x else f'{n} of some rows'", {"a b c d", "{} of some rows"}),
        ("raise E('write {} in braces')", {"write {{}} in braces"}),
        ("t = 'has {n} rows of {m}'.format(n=1, m=2)", {"has {} rows of {}"}),
        ("def f():\n    '''One two three four.'''", set()),
        ("Q(en='one two three', zh='一')", set()),
        ("T = {'en': {'a': 'one two three'}, 'zh-CN': {'a': '一'}}", set()),
        ("T = ('one two three', '一')", set()),
        ("NAMES = 'one two three'.split()", set()),
        ("x: Literal['one two three'] = 1", set()),
    ],
)  # fmt: skip
def test_the_extractor_finds_what_is_said(source: str, expected: set[str]) -> None:
    assert {skeleton for _, skeleton, needed in of_text(source) if needed} == expected


def test_docstrings_count_for_commands_only() -> None:
    source = "@app.command()\ndef audit():\n    '''Attack and check.\n\n    Then\n    say so.\n    '''"
    assert [skeleton for _, skeleton, _ in of_text(source, shell=True)] == [
        "Attack and check.",
        "Then say so.",
    ]
    assert not [skeleton for _, skeleton, needed in of_text(source) if needed]


# ---------------------------------------------------------------------- said


def test_every_sentence_is_found_again_with_its_values() -> None:
    """Filled with values that no other sentence knows, each key must come out as its own Chinese."""
    wrong = []
    for key, chinese in KEYS.items():
        values = [f"q{i}z" for i in range(len(holes(key)))]
        if said(key.format(*values))["zh-CN"] != chinese.format(*values):
            wrong.append(key)
    assert not wrong


def test_a_name_of_the_users_is_never_translated() -> None:
    """A column may be called as a word that the catalogue knows."""
    assert "people" in KEYS
    assert said("strongest column: people")["zh-CN"].endswith("：people")
    assert said("all 9 held-out rows are of class a number: always saying so would be right each time")[
        "zh-CN"
    ].count("a number")


def test_english_stays_as_it_is() -> None:
    assert said("the data has no reference rows") == {
        "en": "the data has no reference rows",
        "zh-CN": "数据中没有参考行",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the data has no reference rows; this report has no 'a'", "数据中没有参考行；本报告没有 'a'"),
        ("lira: the data has no reference rows", "lira：数据中没有参考行"),
        (
            "pgd was asked for and could not be measured: the data has no reference rows",
            "指定了 pgd，但无法测量：数据中没有参考行",
        ),
        (
            "lira: noise_multiplier must be a finite number > 0; got 'a; b'",
            "lira：noise_multiplier 必须是大于 0 的有限数，得到的是 'a; b'",
        ),
        ("cannot write out.json: No space left on device", "无法写入 out.json：磁盘空间不足"),
        ("what 'must be a number; got 1' is", "what 'must be a number; got 1' is"),
        ("Left out of this edition: 3 caveats, 2 notes.", "本版已略去：3 条注意事项，2 条说明。"),
        (
            "Left out of this edition: 3 numbers about fewer than 10 people or records, 2 notes.",
            "本版已略去：3 个关于少于 10 人或 10 条记录的数值，2 条说明。",
        ),
        ("strongest column: people, rows", "作用最大的特征：people, rows"),
        ("  ", "  "),
        ("", ""),
        ("0.25 [0.2, 0.3]", "0.25 [0.2, 0.3]"),
        ("年龄", "年龄"),
    ],
)
def test_sentences_are_found_inside_others_and_side_by_side(text: str, expected: str) -> None:
    assert said(text)["zh-CN"] == expected


def test_several_sentences_in_a_row_and_lists_of_reasons() -> None:
    plain = [key for key in KEYS if key.endswith(".") and "{" not in key and words_of(key) > 5]
    assert len(plain) >= 5
    assert said(" ".join(plain[:4]))["zh-CN"] == "".join(KEYS[key] for key in plain[:4])
    bare = [key for key in KEYS if not re.search(r"[{.;:,()\n#]", key) and words_of(key) > 5]
    assert said("; ".join(bare[:5]))["zh-CN"] == "；".join(KEYS[key] for key in bare[:5])


def words_of(text: str) -> int:
    return len(text.split())


@pytest.mark.parametrize(
    "text",
    [
        "nobody ever wrote these words in a message",
        "the weights were trained on a laptop with care by somebody",
        "column names were typed by somebody last night",
        "x" * 100_000,
        "must be a number; got " * 5000,
    ],
    ids=["short", "words of other sentences", "begins as a sentence of one word", "long", "hostile"],
)
def test_what_is_not_known_stays_as_it_is(text: str) -> None:
    assert said(text)["zh-CN"] == text


def test_no_text_takes_long() -> None:
    """Reports are given by others: neither length nor pieces of every sentence may cost seconds."""
    known = list(KEYS)
    said("read the files first")
    hostile = [
        "; ".join(known)[:LONGEST], ". ".join(known)[-LONGEST:],
        "must be ; got " * (LONGEST // 14), "a; " * (LONGEST // 3),
        " (" * 2000 + ")" * 4000, ": " * (LONGEST // 2), "{}" * (LONGEST // 2), "a, " * (LONGEST // 3), "\n" * LONGEST,
        "".join(key.replace("{}", " ") for key in known)[:LONGEST],
    ]  # fmt: skip
    for text in hostile:
        start = time.process_time()
        in_chinese(text)
        assert time.process_time() - start < 0.5, text[:40]


def test_nothing_is_read_before_somebody_asks() -> None:
    code = (
        "import sys, casemate, casemate.cli, casemate.report.catalogue as c\n"
        "assert 'casemate.report.catalogue.sayings' not in sys.modules\n"
        "c.said('x')\n"
        "assert 'casemate.report.catalogue.sayings' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
