"""Reference vectors for `crates/learn`'s closed-form members: linear discriminant analysis from sums, with NumPy/SciPy.

The same quantities by another road: covariances from the rows themselves instead of from integer sums, eigenvectors by
LAPACK instead of by our own QL. Eigenvectors are free in sign (and in rotation where eigenvalues meet), so what is
compared is what ranking uses: the cosines between encoded rows.

    python reference/closed_form_vectors.py      # writes crates/learn/tests/data/closed_form.safetensors

Written with NumPy 2.4, SciPy 1.17 and scikit-learn 1.8 (isotonic regression); float64.
"""

from pathlib import Path

import numpy as np
import scipy.linalg
from safetensors.numpy import save_file
from sklearn.isotonic import IsotonicRegression

OUT = Path(__file__).resolve().parent.parent / "crates" / "learn" / "tests" / "data" / "closed_form.safetensors"
SETTINGS = [(0.1, 0.0, 0.0), (0.1, 0.25, 0.0), (0.3, 0.25, 0.3), (1.0, 0.5, 0.05), (0.1, 1.0, 0.0)]
# Ridge, and how many rows are views of one image, of analyses weighted by the spread of classes that are left out.
HELD_OUT = [(0.1, 1), (0.3, 4)]
FOLDS = 10
LADDER = [0.03, 0.1, 0.3, 1.0, 3.0]
# Rows per image, and the power by which directions are weighted instead of by the spread of classes that are left out.
RIDGES = [(1, None), (2, None), (8, None), (1, (0.25, 0.05))]


def held_out(apart: np.ndarray, images: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, float]:
    """Spread of left-out class means along the directions of the others, and along each direction beside those."""
    classes, dim = apart.shape
    ranks = min(dim, classes - 1)
    along, beside = [], []
    for fold in range(min(FOLDS, classes)):
        out = np.arange(classes) % FOLDS == fold
        centre = apart[~out].mean(0)
        _, values, directions = np.linalg.svd(apart[~out] - centre, full_matrices=False)
        directions = directions[values**2 > 1e-12 * values[0] ** 2]
        for row, count in zip(apart[out] - centre, images[out]):
            squares = (directions @ row) ** 2 - np.einsum("ij,jk,ik->i", directions, noise, directions) / count
            along.append(np.interp(np.linspace(0, 1, ranks), np.linspace(0, 1, len(squares)), squares))
            if len(squares) < dim:
                beside.append((row @ row - np.trace(noise) / count - squares.sum()) / (dim - len(squares)))
    elsewhere = max(np.mean(beside), 1e-6) if beside else 0.0
    falling = IsotonicRegression(increasing=False).fit_transform(np.arange(ranks), np.mean(along, 0))
    return np.maximum(falling, max(elsewhere, 1e-4)), elsewhere


def encode(
    rows: np.ndarray, labels: np.ndarray, classes: int, ridge: float, power: float = 1.0, floor: float = 0.0, per_image: int = 0
) -> np.ndarray:
    """Unit vectors of the rows under the analysis of the same rows; with `per_image`, weighted by held-out spreads."""
    x = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    means = np.stack([x[labels == c].mean(0) for c in range(classes)])
    residual = x - means[labels]
    within = residual.T @ residual / len(x)
    scatter = within.copy()
    within += ridge * np.trace(within) / len(within) * np.eye(len(within))
    whitening = np.real(scipy.linalg.inv(scipy.linalg.sqrtm(within)))
    mean = x.mean(0)
    apart = (means - mean) @ whitening
    spread, directions = scipy.linalg.eigh(apart.T @ apart / classes)
    spread = np.where(spread > 1e-12 * spread.max(), spread, 0.0)
    weights = (spread + floor) ** power
    if per_image:
        noise = whitening @ scatter @ whitening
        along, elsewhere = held_out(apart, np.bincount(labels) / per_image, noise)
        level = np.trace(noise) / len(noise)
        weights = np.full(len(spread), np.sqrt(elsewhere / (elsewhere + level)))
        weights[::-1][: len(along)] = np.sqrt(along / (along + level))
    out = (x - mean) @ whitening @ directions * weights
    return out / np.linalg.norm(out, axis=1, keepdims=True)


def ridge_score(rows: np.ndarray, labels: np.ndarray, classes: int, ridge: float, per_image: int, power) -> float:
    """The d' of inner products of images of classes that had no part in directions and weights."""
    x = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    means = np.stack([x[labels == c].mean(0) for c in range(classes)])
    residual = x - means[labels]
    scatter = residual.T @ residual / len(x)
    dim = len(scatter)
    whitening = np.real(scipy.linalg.inv(scipy.linalg.sqrtm(scatter + ridge * np.trace(scatter) / dim * np.eye(dim))))
    noise = whitening @ scatter @ whitening
    apart = (means - x.mean(0)) @ whitening
    images = np.bincount(labels) / per_image
    share = np.trace(noise) / (images.sum() - classes)
    if share >= 1:
        return -np.inf
    unseen = noise / (1 - share)
    along, elsewhere = held_out(apart, images, noise)
    level = np.trace(noise) / dim
    between, cross, mixed, within = [], [], [], []
    for fold in range(min(FOLDS, classes)):
        out = np.arange(classes) % FOLDS == fold
        centre = apart[~out].mean(0)
        _, values, directions = np.linalg.svd(apart[~out] - centre, full_matrices=False)
        directions = directions[values**2 > 1e-12 * values[0] ** 2]
        spread = np.interp(np.linspace(0, 1, len(directions)), np.linspace(0, 1, len(along)), along)
        weights, rest = np.sqrt(spread / (spread + level)), np.sqrt(elsewhere / (elsewhere + level))
        if power:
            spread = values[: len(directions)] ** 2 / (~out).sum()
            weights, rest = (spread + power[1]) ** power[0], power[1] ** power[0]
        other = scipy.linalg.null_space(directions)
        turned = np.vstack([directions, other.T])
        weigh = turned.T @ np.diag(np.r_[weights, np.full(dim - len(weights), rest)]) @ turned
        mapped, spreading = (apart[out] - centre) @ weigh, weigh @ unseen @ weigh
        for i, row in enumerate(mapped):
            between.append(row @ row - np.trace(spreading) / images[out][i])
            mixed.append(2 * row @ spreading @ row)
            within.append(np.sum(spreading * spreading.T))
            cross.extend((row @ other) ** 2 for other in mapped[i + 1 :])
    return np.mean(between) / np.sqrt(np.mean(cross) + np.mean(mixed) + np.mean(within))


def main() -> None:
    rng = np.random.default_rng(7)
    dim, classes = 24, 9
    labels = rng.integers(0, classes, 150)
    labels[:classes] = np.arange(classes)
    centres = rng.normal(0, 0.6, (classes, dim))
    rows = (centres[labels] + rng.normal(0, 1, (len(labels), dim)) * rng.uniform(0.2, 1.5, dim) + 1.0).astype(np.float32)
    tensors = {"rows": rows, "labels": labels.astype(np.uint32), "settings": np.array(SETTINGS)}
    for i, (ridge, power, floor) in enumerate(SETTINGS):
        encoded = encode(rows.astype(np.float64), labels, classes, ridge, power, floor)
        tensors[f"cosines_{i}"] = (encoded[:40] @ encoded[:40].T).astype(np.float32)
    tensors["held_out"] = np.array(HELD_OUT, dtype=np.float64)
    for i, (ridge, per_image) in enumerate(HELD_OUT):
        encoded = encode(rows.astype(np.float64), labels, classes, ridge, per_image=per_image)
        tensors[f"held_out_cosines_{i}"] = (encoded[:40] @ encoded[:40].T).astype(np.float32)
    dim, classes = 16, 25
    labels = np.r_[np.arange(classes), rng.integers(0, classes, 325)]
    scales = rng.uniform(0.2, 1.5, dim)
    rows = (rng.normal(0, 0.5, (classes, dim))[labels] + rng.normal(0, 1, (len(labels), dim)) * scales + 1.0).astype(np.float32)
    tensors |= {"ridge_rows": rows, "ridge_labels": labels.astype(np.float32)}
    scores = [[ridge_score(rows.astype(np.float64), labels, classes, ridge, *how) for ridge in LADDER] for how in RIDGES]
    tensors["ridge_scores"] = np.array(scores, dtype=np.float32)
    print(tensors["ridge_scores"])
    save_file(tensors, OUT)
    print(OUT, OUT.stat().st_size)


if __name__ == "__main__":
    main()
