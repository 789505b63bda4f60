"""Reference vectors for the crate `domain`: ranking, the four settings, discovery.

Written with numpy and scipy, independently of the Rust code, and deterministic:

    python reference/evaluation_vectors.py        # writes crates/domain/tests/data/*.json
"""

import itertools
import json
import pathlib

import numpy as np
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

OUT = pathlib.Path(__file__).parent.parent / "crates/domain/tests/data"
KS = [1, 5, 10, 30]


def write(name, value):
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / name).write_text(json.dumps(value, separators=(",", ":")) + "\n")
    print(name, (OUT / name).stat().st_size, "bytes")


def ranked(similarities, labels):
    """Labels by their first occurrence in a stable sort of the gallery by falling similarity."""
    order = np.argsort(-np.asarray(similarities, np.float64), kind="stable")
    seen, result = set(), []
    for i in order:
        if labels[i] not in seen:
            seen.add(labels[i])
            result.append((labels[i], int(i)))
    return result


def ranking(rng):
    cases = []
    for size, classes, levels in [(1, 1, 3), (12, 4, 3), (40, 9, 4), (40, 9, 1000), (200, 31, 16), (60, 60, 8)]:
        # Few levels make ties; multiples of 1/1024 are exact in f32, as are their distances.
        similarities = rng.integers(-levels, levels + 1, size) / 1024.0
        labels = rng.integers(0, classes, size)
        cases.append((similarities, labels))
    cases.append((np.zeros(10), np.array([3, 1, 3, 2, 1, 0, 0, 2, 4, 4])))
    cases.append((np.array([-0.0, 0.0, -0.0, 0.0]), np.array([7, 7, 5, 6])))
    write(
        "ranking.json",
        [
            {
                "similarities": s.tolist(),
                "labels": l.tolist(),
                "ranked": [[int(label), i, float(1 - s[i])] for label, i in ranked(s, l.tolist())],
            }
            for s, l in cases
        ],
    )


def soft(similarities):
    """The soft mean of sharpness 8."""
    return np.log(np.exp(8 * np.asarray(similarities)).mean(-1)) / 8


def nearest(similarities):
    return np.asarray(similarities).max(-1)


def spreads(similarity, labels, pool):
    """Per label: mean and deviation of the other labels' images' pooled similarity to its images, label by label."""
    labels = np.asarray(labels)
    names = sorted(set(labels.tolist()))
    result = {}
    for name in names:
        pooled = pool(similarity[:, labels == name])
        others = [pooled[labels == other] for other in names if other != name]
        mean = np.mean([values.mean() for values in others])
        result[name] = (mean, np.sqrt(np.mean([((values - mean) ** 2).mean() for values in others])))
    return result


def normalised_place(row, labels, pool, spread, strength, wanted):
    """Where a label comes out when nearness is counted in deviations, this much of the way."""
    usual = np.mean([deviation for _, deviation in spread.values()])
    score = {
        name: (pool([value for value, label in zip(row, labels) if label == name]) - strength * mean)
        / (strength * deviation + (1 - strength) * usual)
        for name, (mean, deviation) in spread.items()
    }
    assert np.diff(np.sort(list(score.values()))).min() > 1e-5, "near ties: take another seed"
    return sorted(score, key=score.get, reverse=True).index(wanted) if wanted in score else 10**6


def simulated_cohort(rng):
    """Tables in the GMDB layout, and integer representations: 26 frequent and 10 rare syndromes, 3 splits."""
    tables = {k: [] for k in ["train", "val", "frequent_gallery", "frequent_test", "rare_gallery", "rare_test"]}
    representations, image, subject = {}, 100, 0
    for label in range(36):
        centre = rng.normal(0, 1, (3, 6))
        patients = []
        for _ in range(5 if label < 26 else 2 + label % 3):
            subject += 1
            face = centre + rng.normal(0, 1.8, (3, 6))
            photographs = []
            for _ in range(rng.integers(1, 3)):
                image += 1
                values = np.rint(8 * (face + rng.normal(0, 0.4, (3, 6)))).astype(int)
                values[:, 0] += values.any(1) == 0
                representations[str(image)] = values
                photographs.append((str(image), str(label), str(subject)))
            patients.append(photographs)
        if label < 26:
            for i, photographs in enumerate(patients):
                tables["frequent_test" if i < 1 else "val" if i == 1 else "train"] += photographs
        else:
            for split in range(3):
                for i, photographs in enumerate(patients):
                    table = "rare_test" if split % len(patients) == i else "rare_gallery"
                    tables[table] += [(*row, str(split)) for row in photographs]
    tables["frequent_gallery"] = tables["train"] + tables["val"]
    for k in ["rare_gallery", "rare_test"]:
        tables[k].sort(key=lambda row: int(row[3]))
    # The same photograph under two labels, thrice: ties that only the gallery's order decides.
    label_of = {row[0]: row[1] for rows in tables.values() for row in rows}
    gallery = [row[0] for row in tables["frequent_gallery"]]
    rare = sorted({row[0] for row in tables["rare_gallery"]})
    for a, b in [(gallery[0], gallery[-1]), (gallery[7], gallery[20]), (gallery[12], rare[0])]:
        assert label_of[a] != label_of[b]
        representations[b] = representations[a]
    return tables, representations


def evaluation(rng):
    tables, representations = simulated_cohort(rng)
    ids = list(representations)
    views = np.stack([representations[i] for i in ids]).astype(np.float64)
    encodings = (views / np.linalg.norm(views, axis=2, keepdims=True)).reshape(len(ids), -1) / np.sqrt(3)
    similarity = encodings @ encodings.T
    at = {image: i for i, image in enumerate(ids)}
    label_of = {row[0]: row[1] for rows in tables.values() for row in rows}
    of = lambda table, split=None: [r[0] for r in tables[table] if split is None or r[3] == str(split)]

    def comparison(setting, split, gallery, probes):
        labels = [label_of[g] for g in gallery]
        columns = [at[g] for g in gallery]
        of_gallery = similarity[np.ix_(columns, columns)]
        by_nearest, by_all = spreads(of_gallery, labels, nearest), spreads(of_gallery, labels, soft)
        hits, normalised, pooled = {}, {}, {}
        for probe in probes:
            row = similarity[at[probe], [at[g] for g in gallery]]
            # Eighteen f32 products and sums are off by less than 4e-7: what is not a tie must stay in order.
            gaps = np.diff(np.sort(row))
            assert np.all((gaps < 1e-12) | (gaps > 4e-7)), "near ties: take another seed"
            order = [label for label, _ in ranked(row, labels)]
            place = order.index(label_of[probe]) if label_of[probe] in order else 10**6
            fair = normalised_place(row, labels, nearest, by_nearest, 0.5, label_of[probe])
            all_asked = normalised_place(row, labels, soft, by_all, 0.75, label_of[probe])
            for counts, place in [(hits, place), (normalised, fair), (pooled, all_asked)]:
                cell = counts.setdefault(label_of[probe], [0] * 5)
                for i, yes in enumerate([True] + [place < k for k in KS]):
                    cell[i] += int(yes)
        return {
            "setting": setting,
            "split": split,
            "gallery": gallery,
            "probes": probes,
            "hits": hits,
            "normalised": normalised,
            "pooled": pooled,
        }

    comparisons = [comparison("frequent_frequent", 0, of("frequent_gallery"), of("frequent_test"))]
    for setting in ["rare_rare", "frequent_all", "rare_all"]:
        for split in range(3):
            gallery = ([] if setting == "rare_rare" else of("frequent_gallery")) + of("rare_gallery", split)
            probes = of("frequent_test") if setting == "frequent_all" else of("rare_test", split)
            comparisons.append(comparison(setting, split, gallery, probes))
    accuracies = {}
    for setting in ["frequent_frequent", "rare_rare", "frequent_all", "rare_all"]:
        per_split = [
            [np.mean([c[1 + k] / c[0] for c in comparison["hits"].values()]) for k in range(4)]
            for comparison in comparisons
            if comparison["setting"] == setting
        ]
        accuracies[setting] = (100 * np.mean(per_split, axis=0)).tolist()
    header = "image_id,label,subject"
    write(
        "evaluation.json",
        {
            "tables": {
                k: "\n".join([header + (",split" if k.startswith("rare") else "")] + [",".join(r) for r in rows]) + "\n"
                for k, rows in tables.items()
            },
            "representations": {k: v.tolist() for k, v in representations.items()},
            "comparisons": comparisons,
            "accuracies": accuracies,
        },
    )


def discovery(rng):
    points = rng.normal(0, 1, (14, 5))
    points[:5] += 2.5
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    distances = (distances + distances.T) / 2
    np.fill_diagonal(distances, 0)
    n = len(points)
    ranks = np.zeros((n, n), int)
    for i in range(n):
        order = sorted(range(n), key=lambda j: (j != i, distances[i, j], j))
        ranks[i, order] = range(n)
    linkage = hierarchy.linkage(squareform(distances), "average")
    thresholds = [0.5, 2.0, 3.0, 4.0, 100.0]
    groups = [0, 0, 1, 1, 1, 2, 3, 3, 3, 3, 2, 0, 1, 2]
    members = [np.flatnonzero(np.array(groups) == g) for g in range(4)]
    between = [[0.0 if a == b else distances[np.ix_(x, y)].mean() for b, y in enumerate(members)] for a, x in enumerate(members)]
    mean_pairwise = lambda items: float(np.mean([distances[i, j] for i, j in itertools.combinations(items, 2)]))
    within = [mean_pairwise(x) for x in members]
    cohort = [0, 2, 3, 4]
    every = np.array([mean_pairwise(c) for c in itertools.combinations(range(n), len(cohort))])
    write(
        "discovery.json",
        {
            "distances": distances.ravel().tolist(),
            "ranks": ranks.ravel().tolist(),
            "linkage": linkage.tolist(),
            "leaf_order": hierarchy.leaves_list(linkage).tolist(),
            "flat": [[t, hierarchy.fcluster(linkage, t, "distance").tolist()] for t in thresholds],
            "groups": groups,
            "between": between,
            "within": within,
            "cohort": cohort,
            "cohort_mean": mean_pairwise(cohort),
            "all_groups_mean": float(every.mean()),
            "all_groups_sd": float(every.std()),
            "all_groups_at_least_as_close": float((every <= mean_pairwise(cohort)).mean()),
        },
    )


if __name__ == "__main__":
    ranking(np.random.default_rng(1))
    evaluation(np.random.default_rng(5))
    discovery(np.random.default_rng(3))
