# SPDX-License-Identifier: Apache-2.0
"""The survey's code: what the example and the page's own blocks find is what both pages say."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "survey.py"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(name: str) -> list[str]:
    return BLOCK.findall((ROOT / "docs" / name).read_text("utf-8"))


def rows(name: str) -> list[list[str]]:
    text = (ROOT / "docs" / name).read_text("utf-8")
    return [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]


def figures(text: str) -> list[str]:
    """The figures of a cell, code and links apart, in no order: the two languages put them in different places."""
    plain = re.sub(r"`[^`]*`|\]\([^)]*\)", "", text)
    return sorted(re.findall(r"\d[\d,]*\.?\d*|(?<!\d)\.\d+", plain.replace(" ", "")))


@pytest.mark.parametrize("needle", ["examples/survey.py", "+18.6", ".029", "879"])
def test_the_figures_of_the_survey_s_code_are_those_of_the_other_page(needle: str) -> None:
    (english,), (chinese,) = (
        [row for row in rows(name) if needle in row[-1]] for name in ("survey.md", "survey.zh-CN.md")
    )
    assert figures(english[-1]) == figures(chinese[-1])


# The figures of both pages come from torch's random numbers: other builds may differ by some images of 797.
NEAR = 0.06


@pytest.mark.slow
@pytest.mark.timeout(120)  # Keras is imported, two networks are trained
def test_the_example_finds_what_the_table_of_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("survey_example", EXAMPLE)
    assert spec is not None and spec.loader is not None
    survey = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(survey)
    made: dict[str, Any] = {}

    def kept(name: str) -> Callable[..., Any]:
        function = getattr(survey, name)
        return lambda *given: made.setdefault(name, function(*given))

    for name in ("fgsm", "adversarial_training", "lime", "private_mean"):
        monkeypatch.setattr(survey, name, kept(name))
    survey.main()
    one_step, pgd = made["fgsm"]
    assert one_step.value == pytest.approx(0.600, abs=NEAR)
    assert pgd.value == pytest.approx(0.562, abs=NEAR)
    assert pgd.value <= one_step.value
    found = {row.quantity: row for row in made["adversarial_training"].rows}
    assert found["robust_accuracy"].verdict == "better"
    assert found["robust_accuracy"].difference.value == pytest.approx(0.186, abs=NEAR)
    assert found["accuracy"].difference.value == pytest.approx(-0.009, abs=0.03)
    assert found["log_loss"].verdict == "worse"
    why, report = made["lime"]
    assert why.rows == (17,)
    assert report["lime", "local_fit"].high < 0.5
    assert report["explanation_stability", "top_changes"].status == "measured"
    release, again = made["private_mean"]
    assert release == again and release.epsilon == 0.5 and "clinic" in release.ledger
    shown = capsys.readouterr().out
    assert all(text in shown for text in (str(pgd), "Casemate comparison", "local fit R2", "local_fit"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_page_says_what_its_code_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__example__"}
    for code in blocks("survey.md"):
        exec(code, names)
    assert names["believed"] > 0.95 and 0.15 < names["impossible"] < 0.35
    before, stored_only, after = (row.value for row in names["left"])
    assert stored_only < before - 0.1 and after > before + 0.05
    assert 0.5 < names["poor"] < 0.85 and names["moved"] < 0.3
    # the error of the average of n noises is normal with sd sqrt(2 / n) / epsilon * n / n = .028 years: 8 sigma
    assert abs(names["read"] - names["ages"][-1]) < 8 * (2 / 10_000) ** 0.5 / 0.5
    # the noise of the release has sd .024 years: .5 is beyond 1e-8 for any noise with Laplace's tail
    release = names["release"]
    assert 0 < abs(release.value - names["ages"].mean()) < 0.5
    assert 0.02 < (release.high - release.low) / 2 < 0.1
    assert names["again"].value == release.value and names["ledger"].spent().remaining_epsilon == 0.5
    assert "survives" in capsys.readouterr().out
