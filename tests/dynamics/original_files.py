"""Small run files in the original tracker's format, and the original analysis written out slowly."""

import gzip
import json
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

MEASURES = ("stable_rank", "participation_ratio", "effective_rank_90", "nuclear_norm_ratio")
LAYERS = ("network.0", "network.2", "network.10", "fc1", "head.fc")


def write_run(folder: Path, name: str, seed: int, n: int = 90, zipped: bool = False) -> Path:
    """One run of ``n`` records: rounding, a drift with steps, whole numbers, a decay."""
    rng = np.random.default_rng(seed)
    time = np.arange(n)
    records = []
    courses = {}
    for place, layer in enumerate(LAYERS):
        steps = 2.0 * (time > n // 2) * (place % 2)
        courses[layer] = {
            "stable_rank": 1 - 1e-13 * rng.integers(1, 9, n),
            "participation_ratio": 5 + 0.01 * time + steps + 0.1 * rng.normal(size=n),
            "effective_rank_90": np.round(4 + 0.4 * rng.normal(size=n)) if place else np.full(n, 3.0),
            "nuclear_norm_ratio": 3 + 4 * np.exp(-time / (5 + 5 * place)) + 0.01 * rng.normal(size=n),
        }
    for t in range(n):
        metrics = {
            layer: {measure: float(course[measure][t]) for measure in MEASURES}
            for layer, course in courses.items()
        }
        loss = float(2 * np.exp(-t / 20) + 0.1 * rng.random())
        records.append(
            {"step": 5 * t, "epoch": 1 + t // 9, "loss": loss, "grad_norm": 1.0, "layer_metrics": metrics}
        )
    content = {
        "arch_name": "mlp_small",
        "dataset_name": "digits",
        "num_steps": 5 * n,
        "measurement_interval": 5,
        "architecture_params": {"depth": len(LAYERS)},
        "measurements": records,
    }
    text = json.dumps(content)
    path = folder / f"{name}.json{'.gz' if zipped else ''}"
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    return path


def slow_jumps(y: np.ndarray, num_steps: int) -> list[dict]:
    """The original's jumps of one series, one after another, as its formulas say."""
    if len(y) < 3:
        return []
    v = np.diff(y)
    if np.std(v) == 0:
        return []
    found = []
    for i in range(len(v)):
        if abs((v[i] - np.mean(v)) / np.std(v)) > 2.0:
            start, end = max(0, i - 2), min(len(y), i + 3)
            phase = i / num_steps
            found.append(
                {
                    "step": i,
                    "magnitude": abs(v[i]),
                    "speed": abs(y[end - 1] - y[start]) / (end - start),
                    "direction": "increase" if v[i] > 0 else "decrease",
                    "phase": phase,
                    "phase_category": "early" if phase < 0.33 else "mid" if phase < 0.67 else "late",
                }
            )
    return found


def slow_stabilization(y: np.ndarray) -> int:
    """First of the windows of 20 whose variance is below (a tenth of the mean) squared, the last left out."""
    for i in range(20, len(y)):
        if np.var(y[i - 20 : i]) < (0.1 * np.mean(y)) ** 2:
            return i - 20
    return -1


def slow_order(points: dict[str, int]) -> tuple[float, float]:
    """Spearman of the number at a layer's end (999 without one) and its stabilization point."""
    places, times = [], []
    for name, point in points.items():
        if point >= 0:
            last = name.split(".")[-1]
            digits = last if "." in name else "".join(c for c in name if c.isdigit())
            places.append(int(digits) if digits.isdigit() else 999)
            times.append(point)
    if len(places) < 3:
        return 0.0, 1.0
    if len(set(places)) == 1 or len(set(times)) == 1:
        return float("nan"), float("nan")
    found = spearmanr(places, times)
    return float(found[0]), float(found[1])


def slow_periods(series: dict[str, np.ndarray], loss: np.ndarray) -> dict[str, float]:
    """The original's critical periods, one layer and one record after another."""
    n = len(loss)
    score = np.zeros(n)
    critical, transitions, shares = 0, 0, []
    for y in series.values():
        v = np.diff(y)
        a = np.diff(v)
        mine = [i for i in range(len(v)) if abs(v[i]) > np.percentile(np.abs(v), 90)]
        transitions += sum(abs(x) > np.percentile(np.abs(a), 90) for x in a)
        critical += len(mine)
        for i in mine:
            score[i] += 1
        falls = [loss[i + 1] - loss[i] < 0 for i in mine]
        shares.append(np.mean(falls) if falls else 0.0)
    score = score / len(series)
    return {
        "total_critical_steps": critical,
        "total_transitions": int(transitions),
        "num_coordinated_periods": int((score >= 0.5).sum()),
        "max_coordination": float(score.max()),
        "mean_coordination": float(score.mean()),
        "loss_correlation": float(np.mean(shares)),
    }
