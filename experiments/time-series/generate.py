# SPDX-License-Identifier: MIT
"""Writes the prompts of the time-series study: chaotic and random series as comma-joined numbers.

    python3 experiments/time-series/generate.py [FOLDER]

writes brownian.json, logistic.json and lorenz.json, by default beside this file, where the same
files are stored. Needs numpy. Lorenz needs scipy too: the series is chaotic, so only the same
integrator (LSODA) gives the same numbers; without scipy that file is left as it is.
"""

import json
import pathlib
import sys

import numpy as np

LOW, WIDTH = 0.15, 0.7  # a series is mapped to [LOW, LOW + WIDTH], so every number has two digits
LENGTH = 180  # numbers of a prompt, the last of which is the target
DRIFT = 0.05


def digits(value):
    """Two digits after the point of a value in (0, 1), each cut off in turn.

    The rounding of the subtraction is part of the rule: 0.15 gives 14, not 15.
    """
    first = int(value / 0.1)
    value -= 0.1 * first
    return str(10 * first + int(value / 0.01))


def serialise(series):
    """The numbers of a whole series as texts."""
    series = np.asarray(series, dtype=np.float64)
    low, high = series.min(), series.max()
    return [digits(value) for value in WIDTH * (series - low) / (high - low) + LOW]


def brownian(seed, length=LENGTH, dt=0.1, sigma=0.1):
    """Random walk without drift from 0, steps sigma sqrt(dt) N(0, 1)."""
    random = np.random.RandomState(seed)
    series = [0.0]
    for _ in range(length - 1):
        series.append(series[-1] + sigma * np.sqrt(dt) * random.normal(0, 1))
    return series


def logistic(seed, length=LENGTH + 1, rate=3.8):
    """x -> rate x (1 - x) from 0.7 U(0, 1), which is not part of the series."""
    value, series = 0.7 * np.random.RandomState(seed).uniform(0, 1), []
    for _ in range(length):
        value = rate * value * (1 - value)
        series.append(value)
    return series


def lorenz(seed, drift=0.0, length=500, end=50.0):
    """x of the Lorenz system (10, 28, 8/3) from (0.3 U(0, 1), 2.01, 23.02), plus drift * index."""
    from scipy.integrate import odeint

    def velocity(state, _time):
        x, y, z = state
        return [10.0 * (y - x), x * (28.0 - z) - y, x * y - 8.0 / 3.0 * z]

    start = [0.3 * np.random.RandomState(seed).uniform(0, 1), 2.01, 23.02]
    path = odeint(velocity, start, np.linspace(0, end, length))
    return path[:, 0] + drift * np.arange(length)


def rows(name, seeds, series):
    """One prompt a seed: the first numbers of the series, which is mapped as a whole."""
    return [{"id": f"{name}-{seed}", "clean": ",".join(serialise(series(seed))[:LENGTH])}
            for seed in seeds]


def prompts():
    """{file name: rows} of all that can be made here."""
    made = {
        "brownian.json": rows("brownian", range(4, 9), brownian),
        "logistic.json": rows("logistic", range(5), logistic),
    }
    try:
        made["lorenz.json"] = (
            rows("lorenz", range(2, 7), lorenz)
            + rows("lorenz-drift", range(2, 7), lambda seed: lorenz(seed, DRIFT))
        )
    except ImportError:
        print("scipy is missing: lorenz.json is left as it is", file=sys.stderr)
    return made


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
    for name, made in prompts().items():
        lines = ",\n".join("  " + json.dumps(row) for row in made)
        (folder / name).write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
