"""What comes out of the toy experiment: the cases that are compared, the panels of its figure, its tables."""

from training.engine.charts import Line, Panel

LATENTS = (4, 16, 64)
KINDS = ("full", "LoRA", "full, own starts", "LoRA, own starts")
COMPRESSORS = ("PCA", "conv")
Entries = list[dict[str, float | str]]


def latents_of(kind: str, lora_numbers: int, numbers: int) -> list[int]:
    """Latents that a kind is compressed to: for full weights also those of the ratios that LoRAs have."""
    same_ratio = [round(latent * numbers / lora_numbers) for latent in LATENTS]
    return list(LATENTS) if kind.startswith("LoRA") else sorted({*LATENTS, *same_ratio})


def spread(entries: Entries, wanted: str, **case: float | str) -> tuple[float, float, float]:
    """Mean, least and largest of a figure over the seeds."""
    values = [float(entry[wanted]) for entry in entries if all(entry[key] == value for key, value in case.items())]
    return sum(values) / len(values), min(values), max(values)


def panels(entries: Entries) -> list[Panel]:
    """Lost spread and kept gain, against ratio and against latent."""
    made = []
    for wanted, title in (
        ("error", "share of the weights' spread lost"),
        ("kept", "share of the gain in task loss kept (below 0 drawn as 0)"),
    ):
        for axis, text in (("ratio", "numbers : latent numbers"), ("latent", "latent numbers")):
            lines = []
            for kind in KINDS:
                for compressor in COMPRESSORS:
                    own = [entry for entry in entries if (entry["kind"], entry["compressor"]) == (kind, compressor)]
                    places = sorted({float(entry[axis]) for entry in own})
                    points = [(place, *spread(own, wanted, **{axis: place})) for place in places]
                    lines.append(Line(f"{kind} ({compressor})", KINDS.index(kind), compressor == "conv", points))
            made.append(Panel(title, text, lines))
    return made


def table(entries: Entries) -> str:
    """Both comparisons, means over seeds."""
    facts = {kind: next(entry for entry in entries if entry["kind"] == kind) for kind in KINDS}
    rows = [
        f"{kind}: {facts[kind]['numbers']} numbers, task loss {spread(entries, 'loss_without', kind=kind)[0]:.3f} → "
        f"{spread(entries, 'loss_adapted', kind=kind)[0]:.3f}"
        for kind in KINDS
    ]
    share = float(facts["full"]["numbers"]) / float(facts["LoRA"]["numbers"])
    for wanted, text in (("error", "spread lost"), ("kept", "gain kept")):
        for equal in ("ratio", "latent"):
            rows.append(f"{text} at equal {equal}, by {' / '.join(COMPRESSORS)}:")
            rows.append(f"{equal:>8s}  " + "".join(f"{kind:>20s}" for kind in KINDS))
            for latent in LATENTS:
                cells = []
                for kind in KINDS:
                    own = round(latent * share) if equal == "ratio" and kind.startswith("full") else latent
                    values = (
                        spread(entries, wanted, kind=kind, compressor=name, latent=own)[0] for name in COMPRESSORS
                    )
                    cells.append(" / ".join(f"{value:.3f}" for value in values))
                value = latent if equal == "latent" else float(facts["LoRA"]["numbers"]) / latent
                rows.append(f"{value:8.4g}  " + "".join(f"{cell:>20s}" for cell in cells))
    return "\n".join(rows)
