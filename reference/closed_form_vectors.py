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
    save_file(tensors, OUT)
    print(OUT, OUT.stat().st_size)


if __name__ == "__main__":
    main()
