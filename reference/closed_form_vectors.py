"""Reference vectors for `crates/learn`'s closed-form members: linear discriminant analysis from sums, with NumPy/SciPy.

The same quantities by another road: covariances from the rows themselves instead of from integer sums, eigenvectors by
LAPACK instead of by our own QL. Eigenvectors are free in sign (and in rotation where eigenvalues meet), so what is
compared is what ranking uses: the cosines between encoded rows.

    python reference/closed_form_vectors.py      # writes crates/learn/tests/data/closed_form.safetensors

Written with NumPy 2.4 and SciPy 1.17; float64.
"""

from pathlib import Path

import numpy as np
import scipy.linalg
from safetensors.numpy import save_file

OUT = Path(__file__).resolve().parent.parent / "crates" / "learn" / "tests" / "data" / "closed_form.safetensors"
SETTINGS = [(0.1, 0.0, 0.0), (0.1, 0.25, 0.0), (0.3, 0.25, 0.3), (1.0, 0.5, 0.05), (0.1, 1.0, 0.0)]


def encode(rows: np.ndarray, labels: np.ndarray, classes: int, ridge: float, power: float, floor: float) -> np.ndarray:
    """Unit vectors of the rows under the analysis of the same rows."""
    x = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    means = np.stack([x[labels == c].mean(0) for c in range(classes)])
    residual = x - means[labels]
    within = residual.T @ residual / len(x)
    within += ridge * np.trace(within) / len(within) * np.eye(len(within))
    whitening = np.real(scipy.linalg.inv(scipy.linalg.sqrtm(within)))
    mean = x.mean(0)
    apart = (means - mean) @ whitening
    spread, directions = scipy.linalg.eigh(apart.T @ apart / classes)
    spread = np.where(spread > 1e-12 * spread.max(), spread, 0.0)
    out = (x - mean) @ whitening @ directions * (spread + floor) ** power
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
    save_file(tensors, OUT)
    print(OUT, OUT.stat().st_size)


if __name__ == "__main__":
    main()
