# SPDX-License-Identifier: Apache-2.0
"""Writes pydp.json: counts of noise drawn by Google's C++ library through python-dp, for test_mechanisms_oracle.py.

What it offers and what of it is comparable: a one-sided geometric, whose differences are discrete Laplace; a Laplace on
a grid of 2^-40 of its scale, which is a discrete Laplace of scale 2^40 in steps of the grid; and of whole numbers a
Gaussian that is rounded, which at a deviation of 50 is the discrete Gaussian but for 1 / (12 sigma^2) of its variance.

python tests/oracle/make_pydp.py
"""

from __future__ import annotations

import json
from collections import Counter
from importlib.metadata import version
from pathlib import Path

DRAWS = 200_000
SCALES = (0.5, 1.0, 2.5, 10.0)
DIGITS, BLOCK = (
    40,
    38,
)  # the Laplace is on a grid of 2^-40; drawn values are counted in blocks of 2^38 of its steps
DEVIATION = 50.0


def main() -> None:
    import pydp.distributions as distributions  # not in the test environment: read only when recording
    from pydp.algorithms.numerical_mechanisms import GaussianMechanism

    out: dict[str, object] = {"versions": {"python-dp": version("python-dp")}, "draws": DRAWS}
    geometric, laplace = {}, {}
    for scale in SCALES:
        one = distributions.GeometricDistribution(1 / scale)
        geometric[str(scale)] = sorted(Counter(one.sample() for _ in range(DRAWS)).items())
        laplace[str(scale)] = sorted(Counter(one.sample() - one.sample() for _ in range(DRAWS)).items())
    wide = distributions.LaplaceDistribution(epsilon=1.0, sensitivity=1.0)
    steps = [wide.sample() * 2**DIGITS for _ in range(DRAWS)]
    if any(step != int(step) for step in steps):
        raise SystemExit("the Laplace is on another grid than 2^-40")
    whole = [int(step) for step in steps]
    rounded = GaussianMechanism.create_from_standard_deviation(DEVIATION)
    out |= {
        "geometric": geometric,
        "laplace": laplace,
        "wide_laplace": {
            "scale": 2**DIGITS,
            "block": BLOCK,
            "counts": sorted(Counter(one >> BLOCK for one in whole).items()),
            "last_digits": [Counter(one % 16 for one in whole)[digit] for digit in range(16)],
        },
        "gaussian": {str(DEVIATION): sorted(Counter(rounded.add_noise(0) for _ in range(DRAWS)).items())},
    }
    Path(__file__).with_name("pydp.json").write_text(json.dumps(out) + "\n", "utf-8")


if __name__ == "__main__":
    main()
