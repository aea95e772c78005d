# SPDX-License-Identifier: Apache-2.0
"""Eight processes that write to one budget, killed at 10,000 random moments: no spend is lost, no answer doubled."""

from __future__ import annotations

from pathlib import Path

import ledger_kills
import pytest


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_ten_thousand_killed_writers_lose_nothing(tmp_path: Path) -> None:
    found = ledger_kills.run(tmp_path, 10_000)
    assert found["kills"] == 10_000 and found["draws"] > 1000
    assert found["rounds over count"] == 0
