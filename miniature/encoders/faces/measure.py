"""Figures of the face networks on validation people: `python -m miniature.encoders.faces.measure`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from miniature.world.people import TRAITS, split_people

from .alignment import CROP, aligned_crop, alignment
from .face_images import PersonImages, draw_album, open_album


def aligned_album(album: PersonImages) -> np.ndarray:
    """Crops by the true landmarks: uint8 (people, pictures, 112, 112, 3)."""
    crops = np.empty((len(album.people), album.pictures, CROP, CROP, 3), dtype=np.uint8)
    for row in range(len(album.people)):
        for column, transform in enumerate(alignment(album.landmarks[row])):
            crops[row, column] = aligned_crop(album.picture(row, column), transform)
    return crops


def recognizer_figures(embeddings: np.ndarray) -> dict[str, float]:
    """Cosines and nearest-of-25 accuracy of raw embeddings (people, pictures, 512)."""
    people, pictures, _ = embeddings.shape
    units = unit(embeddings)
    flat = units.reshape(people * pictures, -1)
    cosine = flat @ flat.T
    owner = np.repeat(np.arange(people), pictures)
    same = (owner[:, None] == owner) & ~np.eye(len(owner), dtype=bool)
    other = owner[:, None] != owner
    right = []
    for start in range(0, people - 24, 25):  # one picture as gallery, the others looked up among 25 people
        gallery = units[start : start + 25, 0]
        queries = units[start : start + 25, 1:]
        right.append((np.einsum("pkd,gd->pkg", queries, gallery).argmax(-1) == np.arange(25)[:, None]).mean())
    return {
        "same_person": float(cosine[same].mean()),
        "other_person": float(cosine[other].mean()),
        "other_person_sd": float(cosine[other].std()),
        "nearest_of_25": float(np.mean(right)),
    }


def trait_r2(fit: np.ndarray, fit_traits: np.ndarray, test: np.ndarray, test_traits: np.ndarray) -> dict[str, float]:
    """R² of a ridge map from one picture's unit embedding to each trait: fitted on some people, told of others.

    fit, test: embeddings (people, pictures, 512). fit_traits, test_traits: (people, 26).
    """
    x, y = unit(fit).reshape(-1, fit.shape[-1]), np.repeat(fit_traits, fit.shape[1], axis=0)
    mean_x, mean_y = x.mean(0), y.mean(0)
    gram = (x - mean_x).T @ (x - mean_x) + 0.01 * len(x) / x.shape[1] * np.eye(x.shape[1])
    predicted = (unit(test) - mean_x) @ np.linalg.solve(gram, (x - mean_x).T @ (y - mean_y)) + mean_y
    error = (predicted - test_traits[:, None]) ** 2
    return dict(zip(TRAITS, (1 - error.mean((0, 1)) / test_traits.var(0)).tolist(), strict=True))


def unit(embeddings: np.ndarray) -> np.ndarray:
    """Embeddings of length one."""
    return embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)


def main(build: Path = Path("miniature/build"), pictures: int = 8) -> None:
    """Print both recognizers' figures on validation people; the map to the traits is fitted on people new to each."""
    from . import face_analysis

    album = draw_album(split_people("validation"), pictures)
    crops = aligned_album(album)
    for name, strangers in (("miniature", range(2400, 3600)), ("measuring", range(0, 1200))):
        recognizer = face_analysis(name).models["recognition"]
        fitted = open_album(build, strangers)
        fit, test = (
            np.stack([recognizer.get_feat([crop[..., ::-1] for crop in person]) for person in stack])
            for stack in (aligned_album(fitted)[:, :6], crops)
        )
        print(name, {key: round(value, 3) for key, value in recognizer_figures(test).items()})
        scores = trait_r2(fit, fitted.traits(), test, album.traits())
        print("  R² per trait:", ", ".join(f"{key} {value:.2f}" for key, value in scores.items()))
        print(f"  mean R²: {np.mean(list(scores.values())):.3f}")


if __name__ == "__main__":
    main()
