"""What the toy experiment shows: the cases that are compared, the panels of its figure, its tables."""

from training.engine.charts import Line, Panel

LATENT_SIZES = (4, 16, 64)
KINDS = ("full", "LoRA", "full, own starts", "LoRA, own starts")
COMPRESSORS = ("PCA", "conv")
Entries = list[dict[str, float | str]]


def latent_sizes(kind: str, lora_size: int, size: int) -> list[int]:
    """Return the latent sizes that a kind is compressed to: full weights also at the ratios that LoRAs have.

    Args:
        kind: One of `KINDS`.
        lora_size: Weights of a LoRA.
        size: Weights of this kind.
    """
    same_ratio = [round(latent * size / lora_size) for latent in LATENT_SIZES]
    return list(LATENT_SIZES) if kind.startswith("LoRA") else sorted({*LATENT_SIZES, *same_ratio})


def spread(entries: Entries, metric: str, **case: float | str) -> tuple[float, float, float]:
    """Return mean, least and largest of a metric over the seeds."""
    values = [float(entry[metric]) for entry in entries if all(entry[key] == value for key, value in case.items())]
    return sum(values) / len(values), min(values), max(values)


def panels(entries: Entries) -> list[Panel]:
    """Make the figure's panels: lost variance and preserved improvement, against ratio and against latent size."""
    charts = []
    for metric, title in (
        ("error", "share of the weights' variance lost"),
        ("preserved", "share of the loss improvement preserved (below 0 as 0)"),
    ):
        for axis, text in (("ratio", "weights : latent values"), ("latent", "latent values")):
            lines = [_line(entries, metric, axis, kind, name) for kind in KINDS for name in COMPRESSORS]
            charts.append(Panel(title, text, lines))
    return charts


def _line(entries: Entries, metric: str, axis: str, kind: str, compressor: str) -> Line:
    """Make the line of one kind and compressor: the metric's mean and spread at each place of the axis."""
    own = [entry for entry in entries if (entry["kind"], entry["compressor"]) == (kind, compressor)]
    places = sorted({float(entry[axis]) for entry in own})
    points = [(place, *spread(own, metric, **{axis: place})) for place in places]
    return Line(f"{kind} ({compressor})", KINDS.index(kind), compressor == "conv", points)


def table(entries: Entries) -> str:
    """Format both comparisons, means over seeds."""
    sizes = {kind: next(float(entry["weights"]) for entry in entries if entry["kind"] == kind) for kind in KINDS}
    rows = [
        f"{kind}: {sizes[kind]:.0f} weights, task loss {spread(entries, 'loss_unadapted', kind=kind)[0]:.3f} → "
        f"{spread(entries, 'loss_adapted', kind=kind)[0]:.3f}"
        for kind in KINDS
    ]
    for metric, text in (("error", "variance lost"), ("preserved", "improvement preserved")):
        for equal in ("ratio", "latent"):
            rows.append(f"{text} at equal {equal}, by {' / '.join(COMPRESSORS)}:")
            rows.append(f"{equal:>8s}  " + "".join(f"{kind:>20s}" for kind in KINDS))
            rows += [_row(entries, sizes, metric, equal, latent) for latent in LATENT_SIZES]
    return "\n".join(rows)


def _row(entries: Entries, sizes: dict[str, float], metric: str, equal: str, latent: int) -> str:
    """One row of a table. latent: of the LoRAs."""
    cells = []
    for kind in KINDS:
        own = round(latent * sizes["full"] / sizes["LoRA"]) if equal == "ratio" and kind.startswith("full") else latent
        values = (spread(entries, metric, kind=kind, compressor=name, latent=own)[0] for name in COMPRESSORS)
        cells.append(" / ".join(f"{value:.3f}" for value in values))
    first = latent if equal == "latent" else sizes["LoRA"] / latent
    return f"{first:8.4g}  " + "".join(f"{cell:>20s}" for cell in cells)
