"""The settings that `benchmarks.identity` tries for sampling, and the figure of their curves.

python -m benchmarks.identity --table sampling --split validation --people 16 --figure curves.png
"""

from collections.abc import Mapping, Sequence

from training.engine.charts import Line, Panel

SAMPLING: dict[str, tuple] = {
    "steps": (1, 2, 4, 10, 20, 50),
    "samples": (1, 2, 4, 16),
    "guidance_scale": (1.0, 1.5, 2.0, 3.0),
    "latent_scale": (0.75, 1.0, 1.25, 1.5),
    "temperature": (0.0, 0.2, 0.4, 0.7, 1.0),
    "scheduler": ("ddim", "dpmpp_2m", "unipc"),
}
TITLES = {
    "steps": "steps",
    "samples": "samples averaged",
    "guidance_scale": "guidance (1: none)",
    "latent_scale": "latent scale (1: as predicted)",
}
RANGE = (0.5, 1.25)
Found = Mapping[str, Sequence[Mapping[str, float]]]


def label(name: str, value: object, one: bool = False) -> str:
    """Name of a row of the table.

    Args:
        name: The setting that is changed.
        value: Its value.
        one: Whether the rest is one sample and latent scale 1 in place of what ships.
    """
    return f"{name} {value}{', one sample, latent scale 1' if one else ''}"


def curves(found: Found) -> list[Panel]:
    """A chart for each setting: face similarity as a share of the teachers', mean and range over the seeds.

    Args:
        found: Metrics of every row of the table, one for each seed.
    """

    def shares(row: str) -> tuple[float, float, float]:
        rows = zip(found[row], found["none"], found["teacher"], strict=True)
        values = [
            (own["similarity"] - none["similarity"]) / (teacher["similarity"] - none["similarity"])
            for own, none, teacher in rows
        ]
        return sum(values) / len(values), min(values), max(values)

    def line(name: str, color: int, one: bool) -> Line:
        points = [(value, *shares(label(name, value, one))) for value in SAMPLING[name]]
        return Line("one sample, latent scale 1" if one else "as it ships", color, one, points)

    return [
        Panel(
            "share of the teachers' face similarity",
            title,
            [line(name, 0, False), *([line(name, 1, True)] if name == "steps" else [])],
            SAMPLING[name],
            name in ("steps", "samples"),
            RANGE,
        )
        for name, title in TITLES.items()
    ]
