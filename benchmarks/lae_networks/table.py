"""The table of `benchmarks.lae_networks`."""

import json
from typing import Any

Entry = dict[str, Any]
"""What was measured of one case: its settings (`case`), sizes and metrics."""
METRICS = {"r2": "R²", "delta_w_cosine": "ΔW cosine", "kept": "kept"}
"""Heads of their columns."""


def show(entries: list[Entry]) -> None:
    """Print the table: a line per network, ratio and weight, over all seeds."""
    head = f"ratio  {'network':13s} {'form':10s} {'trained':18s}  values  M param."
    print("   ".join((head, *(f"{metric:17s}" for metric in METRICS.values()))))
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        case = {key: value for key, value in entry["case"].items() if key != "seed"}
        groups.setdefault(json.dumps(case), []).append(entry)
    for key in sorted(groups, key=lambda key: (-json.loads(key)["ratio"], key)):
        case, found = json.loads(key), groups[key]
        trained = f"wp {case['weight']:g} × {len(found)}" if "weight" in case else "as fitted"
        if case.get("end_to_end"):
            trained += f" + {case['end_to_end']}"
        cells = [_spread([entry[name] for entry in found if name in entry]) for name in METRICS]
        if any(cells):
            print(
                f"{case['ratio']:5d}  {case['network']:13s} {case['form']:10s} {trained:18s} {found[0]['values']:7d}  "
                f"{found[0]['parameters'] / 1e6:7.2f}   " + "".join(f"{cell:20s}" for cell in cells)
            )


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    mean = f"{sum(values) / len(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f}–{max(values):.3f})"
