# SPDX-License-Identifier: Apache-2.0
"""The accountant on 200 sampled-Gaussian events: tightness, soundness and CPU time.

Beside each claim stand dp-accounting's own values on two finer lattices (lattices, composition and reading are its
own, none of ours; the lesser of them is the yardstick), and our certified lower value. Time is process CPU time, the
accountant's caches empty.

python bench/accounting.py [number of points]
"""

from __future__ import annotations

import itertools
import random
import sys
import time

import numpy as np

from casemate.privacy import _bounds, _rdp, accounting
from casemate.privacy.accounting import Gaussian

NOISES = (0.6, 0.8, 1.0, 1.5, 2.5, 5.0, 12.0)
RATES = (1e-4, 1e-3, 4e-3, 0.01, 0.05, 0.2)
STEPS = (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)
DELTAS = (1e-5, 1e-6, 1e-8)
LARGEST = 50.0  # epsilon; beyond, no claim is worth making
FINEST = 2_000_000  # lattice points of the yardstick


def points(n: int) -> list[tuple[float, float, int, float]]:
    """Return ``n`` points of the grid, those with an epsilon from 0.02 to LARGEST by Renyi divergences, drawn once."""
    every = list(itertools.product(NOISES, RATES, STEPS, DELTAS))
    random.Random(0).shuffle(every)
    kept = []
    for noise, rate, steps, delta in every:
        loose, _ = _rdp.divergences((Gaussian(noise_multiplier=noise, rate=rate, count=steps),)).epsilon(
            delta
        )
        if 0.02 < loose < LARGEST:
            kept.append((noise, rate, steps, delta))
    return kept[:n]


def yardstick(event: accounting.Event, delta: float) -> float:
    """Return the least epsilon of dp-accounting on two lattices, twice and four times as fine as the one we used.

    Its lattice, its composition and its reading: no code of ours takes part.
    """
    from dp_accounting.pld import common
    from dp_accounting.pld import privacy_loss_distribution as pld

    made, _ = _bounds.refined(event, delta)
    (part,) = event
    assert isinstance(part, Gaussian)
    found = []
    for finer in (2, 4):
        if made is None or made.size * finer > FINEST:
            continue
        one = pld.from_gaussian_mechanism(
            part.noise_multiplier,
            sampling_prob=part.rate,
            value_discretization_interval=made.interval / finer,
        )
        sides = [side.to_dense_pmf() for side in (one._pmf_remove, one._pmf_add)]  # sparse ones take long
        low, high = common.compute_self_convolve_bounds(sides[0]._probs, part.count, 1e-15)
        if max(high - low, sides[0].size) <= FINEST:
            found.append(
                pld.PrivacyLossDistribution(*sides).self_compose(part.count).get_epsilon_for_delta(delta)
            )
    return min(found, default=float("inf"))


def main() -> None:
    asked = points(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
    accounting.cost((Gaussian(noise_multiplier=1.0, rate=0.5, count=2),), 1e-5)  # imports
    seconds, over, above, wrong, slack = [], [], 0, 0, []
    for noise, rate, steps, delta in asked:
        event = (Gaussian(noise_multiplier=noise, rate=rate, count=steps),)
        _rdp.divergences.cache_clear()
        before = time.process_time()
        claim = accounting.epsilon(event, delta)
        seconds.append(time.process_time() - before)
        lower = accounting.lower_epsilon(event, delta)
        finer = yardstick(event, delta)
        wrong += not lower <= claim
        wrong += not lower <= finer
        slack.append(1 - lower / claim if claim else 0.0)
        if np.isfinite(finer):
            over.append((claim - finer) / max(claim, 1e-9))
            above += claim - finer > max(0.02, 0.01 * finer)
    share = np.percentile
    print(f"{len(asked)} points, {len(over)} with a yardstick; below a certified lower value: {wrong}")
    print(f"farther than max(0.02, 1 %) above the finer lattices: {above}; worst {max(over):.4%}")
    print(
        f"accounting slack: median {share(slack, 50):.2%}, 95 % {share(slack, 95):.2%}, worst {max(slack):.2%}"
    )
    print(
        f"CPU seconds: median {share(seconds, 50):.2f}, 90 % {share(seconds, 90):.2f}, 99 % {share(seconds, 99):.2f}, "
        f"worst {max(seconds):.2f}; above 1 s: {sum(s > 1 for s in seconds)}"
    )
    slowest = int(np.argmax(seconds))
    print(f"slowest: {asked[slowest]}; worst slack: {asked[int(np.argmax(slack))]}")


if __name__ == "__main__":
    main()
