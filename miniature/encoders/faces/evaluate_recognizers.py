"""Figures of the recognizers on validation people: `python -m miniature.encoders.faces.evaluate_recognizers`."""

from __future__ import annotations

import numpy as np

from miniature.paths import BUILD
from miniature.world.people import TRAITS, split_people

from .alignment import CROP, aligned_crop, alignment
from .face_analysis import load_face_analysis
from .face_images import FaceImages, draw_face_images, open_face_images

IMAGES = 8


def aligned_crops(images: FaceImages) -> np.ndarray:
    """Crops by the true landmarks: uint8 (people, images, 112, 112, 3)."""
    crops = np.empty((len(images.people), images.per_person, CROP, CROP, 3), dtype=np.uint8)
    for row in range(len(images.people)):
        for column, transform in enumerate(alignment(images.landmarks[row])):
            crops[row, column] = aligned_crop(images.image(row, column), transform)
    return crops


def recognizer_figures(embeddings: np.ndarray) -> dict[str, float]:
    """Cosines and nearest-of-25 accuracy of raw embeddings (people, images, 512)."""
    people, images, _ = embeddings.shape
    units = unit(embeddings)
    flat = units.reshape(people * images, -1)
    cosine = flat @ flat.T
    owner = np.repeat(np.arange(people), images)
    same = (owner[:, None] == owner) & ~np.eye(len(owner), dtype=bool)
    other = owner[:, None] != owner
    right = []
    for start in range(0, people - 24, 25):  # one image is the gallery, the others are queries
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
    """R² of a ridge regression from one image's unit embedding to each trait, fitted and tested on different people.

    Args:
        fit: Embeddings (people, images, 512) to fit on.
        fit_traits: Their traits (people, 26).
        test: Embeddings of other people.
        test_traits: Their traits.
    """
    x, y = unit(fit).reshape(-1, fit.shape[-1]), np.repeat(fit_traits, fit.shape[1], axis=0)
    mean_x, mean_y = x.mean(0), y.mean(0)
    gram = (x - mean_x).T @ (x - mean_x) + 0.01 * len(x) / x.shape[1] * np.eye(x.shape[1])
    predicted = (unit(test) - mean_x) @ np.linalg.solve(gram, (x - mean_x).T @ (y - mean_y)) + mean_y
    error = (predicted - test_traits[:, None]) ** 2
    return dict(zip(TRAITS, (1 - error.mean((0, 1)) / test_traits.var(0)).tolist(), strict=True))


def unit(embeddings: np.ndarray) -> np.ndarray:
    """Scale embeddings to length one."""
    return embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)


def main() -> None:
    """Print both recognizers' figures on validation people; traits are fitted on people new to each recognizer."""
    drawn = draw_face_images(split_people("validation"), IMAGES)
    crops = aligned_crops(drawn)
    for name, strangers in (("miniature", range(2400, 3600)), ("measuring", range(0, 1200))):
        recognizer = load_face_analysis(name).models["recognition"]
        fitted = open_face_images(BUILD, strangers)
        fit, test = (
            np.stack([recognizer.get_feat([crop[..., ::-1] for crop in person]) for person in stack])
            for stack in (aligned_crops(fitted)[:, :6], crops)
        )
        print(name, {key: round(value, 3) for key, value in recognizer_figures(test).items()})
        scores = trait_r2(fit, fitted.traits(), test, drawn.traits())
        print("  R² per trait:", ", ".join(f"{key} {value:.2f}" for key, value in scores.items()))
        print(f"  mean R²: {np.mean(list(scores.values())):.3f}")


if __name__ == "__main__":
    main()
