# SPDX-License-Identifier: Apache-2.0
"""Writes riskcal.json: noise and trade-off curves of riskcal (Kulynych et al. 2024), for test_dp_sgd_oracle.py.

python tests/oracle/make_riskcal.py
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

# rate, steps, the most members recognised, at which false alarms
ASKED = [(1.0, 1, 0.02, 0.01), (0.125, 160, 0.02, 0.01), (0.5, 20, 0.05, 0.01)]
CURVES = [(1.0, 1.0, 1), (2.4, 0.125, 160), (6.0, 0.5, 200)]  # noise, rate, steps
SHARES = (0.001, 0.01, 0.05, 0.1, 0.3, 0.7)


def main() -> None:
    from riskcal.calibration.dpsgd import (  # not in the test environment: read only when recording
        find_noise_multiplier_for_err_rates,
        get_beta_for_dpsgd,
    )

    found = []
    for rate, steps, tpr, fpr in ASKED:
        options = {
            "sample_rate": rate,
            "num_steps": steps,
            "beta_tol": 1e-4,
            "noise_min": 1.0,
            "noise_max": 12.0,
        }
        noise = find_noise_multiplier_for_err_rates(alpha=fpr, beta=1 - tpr, **options)
        found.append([rate, steps, tpr, fpr, float(noise)])
    curves = []
    for noise, rate, steps in CURVES:
        missed = [float(get_beta_for_dpsgd(noise, rate, steps, alpha=share)) for share in SHARES]
        curves.append(
            [noise, rate, steps, [[share, 1 - beta] for share, beta in zip(SHARES, missed, strict=True)]]
        )
    names = ("riskcal", "dp-accounting", "numpy", "scipy")
    out = {"versions": {name: version(name) for name in names}, "noise": found, "curves": curves}
    Path(__file__).with_name("riskcal.json").write_text(json.dumps(out) + "\n", "utf-8")


if __name__ == "__main__":
    main()
