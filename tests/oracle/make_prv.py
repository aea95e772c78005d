# SPDX-License-Identifier: Apache-2.0
"""Writes prv.json: certified intervals of prv-accountant (Gopi, Lee and Wutschitz 2021) for test_accounting_oracle.py.

python tests/oracle/make_prv.py
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

# noise, rate, steps, delta; eps_error 0.05
ASKED = [
    (1.0, 0.01, 10_000, 1e-5),
    (1.0, 0.001, 100_000, 1e-6),
    (1.0, 0.001, 1_000_000, 1e-6),
    (0.6, 0.004, 5_000, 1e-5),
    (0.8, 0.01, 1_000, 1e-5),
    (0.8, 0.05, 500, 1e-6),
    (1.5, 0.1, 200, 1e-5),
    (2.0, 0.02, 10_000, 1e-6),
    (2.5, 0.2, 1_000, 1e-5),
    (3.0, 0.5, 50, 1e-6),
    (4.0, 0.01, 100_000, 1e-5),
    (5.0, 0.05, 20_000, 1e-6),
    (6.0, 0.3, 2_000, 1e-5),
    (0.7, 0.002, 20_000, 1e-6),
    (1.2, 0.004, 50_000, 1e-5),
    (12.0, 0.2, 10_000, 1e-5),
    (1.0, 0.05, 100, 1e-5),
    (1.0, 0.2, 20, 1e-5),
]


def main() -> None:
    from prv_accountant import PRVAccountant  # not in the test environment: read only when recording
    from prv_accountant.privacy_random_variables import PoissonSubsampledGaussianMechanism

    rows = []
    for noise, rate, steps, delta in ASKED:
        variable = PoissonSubsampledGaussianMechanism(noise_multiplier=noise, sampling_probability=rate)
        accountant = PRVAccountant(
            prvs=[variable], max_self_compositions=[steps], eps_error=0.05, delta_error=delta / 1000
        )
        low, estimate, high = accountant.compute_epsilon(delta=delta, num_self_compositions=[steps])
        rows.append([noise, rate, steps, delta, [float(low), float(estimate), float(high)]])
    made = {"prv-accountant": version("prv-accountant"), "intervals": rows}
    (Path(__file__).parent / "prv.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
