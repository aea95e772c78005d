# SPDX-License-Identifier: Apache-2.0
"""Writes opendp.json: counts of noise drawn by OpenDP's exact samplers, for test_mechanisms_oracle.py.

python tests/oracle/make_opendp.py
"""

from __future__ import annotations

import json
from collections import Counter
from importlib.metadata import version
from pathlib import Path

DRAWS = 200_000
SCALES = (0.5, 1.0, 2.5, 10.0)  # exact in binary: OpenDP reads a float as the fraction it is
UTILITIES, EPSILON = [0, 2, 3, 7, 7, 4], 0.75  # of a choice, sensitivity 1, not monotonic


def main() -> None:
    import opendp.prelude as dp  # not in the test environment: read only when recording

    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T=int)), dp.l1_distance(T=int)
    euclid = dp.vector_domain(dp.atom_domain(T=int)), dp.l2_distance(T=float)
    zeros = [0] * DRAWS
    out: dict[str, object] = {"versions": {"opendp": version("opendp")}, "draws": DRAWS}
    for name, make, domain in (
        ("laplace", dp.m.make_laplace, space),
        ("gaussian", dp.m.make_gaussian, euclid),
    ):
        counted = {}
        for scale in SCALES:
            drawn = Counter(make(*domain, scale=scale)(zeros))
            counted[str(scale)] = sorted(drawn.items())
        out[name] = counted
    choices = dp.vector_domain(dp.atom_domain(T=int)), dp.linf_distance(T=int)
    choose = dp.m.make_noisy_max(*choices, dp.max_divergence(), scale=2 / EPSILON)
    picked = Counter(choose(UTILITIES) for _ in range(DRAWS))
    out["noisy_max"] = {
        "utilities": UTILITIES,
        "epsilon": EPSILON,
        "counts": [picked[i] for i in range(len(UTILITIES))],
        "cost": choose.map(1),
    }
    respond = dp.m.make_randomized_response(["0", "1", "2", "3"], prob=0.5, T=str)
    said = Counter(respond("2") for _ in range(DRAWS))
    out["randomised_response"] = {
        "cost": respond.map(1),
        "answer": 2,
        "counts": [said[str(i)] for i in range(4)],
    }
    Path(__file__).with_name("opendp.json").write_text(json.dumps(out) + "\n", "utf-8")


if __name__ == "__main__":
    main()
