"""A file of GestaltMatcher's encodings, tables in the GMDB layout, and the accuracies that belong to them.

numpy only, and independent of the Rust code: distances are the mean of the cosine distances over the members and views,
in float64; a gallery image stands before another when it is nearer, or equally near and earlier in the gallery; recall
is taken per syndrome, averaged over the syndromes asked about, then over the splits. What is printed with two
decimals is what `evaluate_ensemble.py` of GestaltMatcher-Arc prints for the same files: it sorts unstably, so ties may
come out otherwise there.

    python reference/gestaltmatcher_evaluation.py                      # writes crates/fedgestalt/tests/data/gestaltmatcher
    python reference/gestaltmatcher_evaluation.py FILE.csv METADATA    # prints the table of other files
"""

import csv
import json
import pathlib
import sys

import numpy as np

OUT = pathlib.Path(__file__).parent.parent / "crates/fedgestalt/tests/data/gestaltmatcher"
KS = [1, 5, 10, 30]
SETTINGS = ["frequent_frequent", "rare_rare", "frequent_all", "rare_all"]
# Members may differ in length.
LENGTHS = [5, 4, 4]
SPLITS = 10


def cohort(rng):
    """12 frequent syndromes of 4 to 6 images, of which 1 or 2 are asked about; 6 rare ones of 2 or 3, in 10 splits."""
    tables = {name: [] for name in ["train", "val", "frequent_gallery", "frequent_test", "rare_gallery", "rare_test"]}
    encodings, image, subject = {}, 100, 0
    for label in range(18):
        centre = [rng.normal(0, 1, length) for length in LENGTHS]
        members = []
        for _ in range(rng.integers(4, 7) if label < 12 else rng.integers(2, 4)):
            image, subject = image + int(rng.integers(1, 9)), subject + 1
            person = [c + rng.normal(0, 1.5, c.shape) for c in centre]
            encodings[image] = [[p + rng.normal(0, 0.3, p.shape) for _ in range(4)] for p in person]
            members.append((image, label * 7 + 3, subject))
        if label < 12:
            asked = len(members) - 3
            tables["frequent_test"] += members[: min(asked, 2)]
            tables["val"] += members[asked : asked + 1]
            tables["train"] += members[asked + 1 :]
        else:
            for split in range(SPLITS):
                for at, row in enumerate(members):
                    table = "rare_test" if split % len(members) == at else "rare_gallery"
                    tables[table].append((*row, split))
    tables["frequent_gallery"] = tables["train"] + tables["val"]
    for name in ["rare_gallery", "rare_test"]:
        tables[name].sort(key=lambda row: row[3])
    # One photograph under two labels, three times: ties that the gallery's order decides.
    gallery, rare = tables["frequent_gallery"], tables["rare_gallery"]
    for a, b in [(gallery[0], gallery[-1]), (gallery[5], gallery[17]), (gallery[9], rare[0])]:
        assert a[1] != b[1]
        encodings[b[0]] = encodings[a[0]]
    return tables, encodings


def write(folder, tables, encodings):
    metadata = folder / "gmdb_metadata"
    metadata.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        header = ["image_id", "label", "subject"] + (["split"] if name.startswith("rare") else [])
        lines = [",".join(map(str, row)) for row in [header, *rows]]
        (metadata / f"gmdb_{name}_images_v1.0.3.csv").write_text("\n".join(lines) + "\n")
    with open(folder / "all_encodings.csv", "w") as out:
        out.write("img_name;model;flip;gray;class_conf;representations\n")
        for at, (image, members) in enumerate(encodings.items()):
            # Half of the faces were turned upright first, which only their names tell.
            name = f"{image}_rot_aligned.jpg" if at % 2 else f"{image}_aligned.jpg"
            for m, views in enumerate(members):
                for view, values in enumerate(views):
                    unit = (values / np.linalg.norm(values)).astype(np.float32).tolist()
                    conf = [0] if m == 2 else [round(v, 3) for v in unit[:3]]
                    out.write(f"{name};m{m};{view // 2};{view % 2};{conf};{unit}\n")


def read(file, metadata):
    encodings = {}
    with open(file) as lines:
        for row in csv.DictReader(lines, delimiter=";"):
            key = (row["model"], int(row["flip"]), int(row["gray"]))
            values = np.array(json.loads(row["representations"]))
            encodings.setdefault(int(row["img_name"].split("_")[0]), {})[key] = values / np.linalg.norm(values)
    tables = {}
    for path in pathlib.Path(metadata).glob("gmdb_*_images_*.csv"):
        with open(path) as lines:
            rows = [{k: int(v) for k, v in row.items()} for row in csv.DictReader(lines)]
        tables[path.name[5:].split("_images")[0]] = rows
    return tables, encodings


def compare(gallery, probes, encodings, gap=0, last=False):
    """Macro recall at each k of the probes against the gallery; with `last` the last of equally near images wins."""
    gallery = gallery[::-1] if last else gallery
    keys = sorted(encodings[probes[0]["image_id"]])
    similarity = 0
    for key in keys:
        p = np.stack([encodings[row["image_id"]][key] for row in probes])
        g = np.stack([encodings[row["image_id"]][key] for row in gallery])
        # Not as a matrix product, whose blocks would give equal images unequal values.
        similarity = similarity + (p[:, None] * g[None]).sum(2)
    distance = 1 - similarity / len(keys)
    labels = np.array([row["label"] for row in gallery])
    recalls = {}
    for row, distances in zip(probes, distance):
        gaps = np.diff(np.sort(distances))
        assert not gap or np.all((gaps == 0) | (gaps > gap)), "near ties: take another seed"
        ranked = list(dict.fromkeys(labels[np.argsort(distances, kind="stable")].tolist()))
        recalls.setdefault(row["label"], []).append([row["label"] in ranked[:k] for k in KS])
    return np.mean([np.mean(hits, axis=0) for hits in recalls.values()], axis=0)


def evaluate(tables, encodings, *how):
    of = lambda name, split: [row for row in tables[name] if row["split"] == split]
    splits = sorted({row["split"] for row in tables["rare_test"]})
    frequent, test = tables["frequent_gallery"], tables["frequent_test"]
    per_split = {
        "frequent_frequent": [compare(frequent, test, encodings, *how)],
        "rare_rare": [compare(of("rare_gallery", s), of("rare_test", s), encodings, *how) for s in splits],
        "frequent_all": [compare(frequent + of("rare_gallery", s), test, encodings, *how) for s in splits],
        "rare_all": [compare(frequent + of("rare_gallery", s), of("rare_test", s), encodings, *how) for s in splits],
    }
    return {name: [f"{100 * value:.2f}" for value in np.mean(per_split[name], axis=0)] for name in SETTINGS}


def leave_one_out(tables, encodings):
    """Macro recall of every image against all others."""
    rows = {row["image_id"]: row for rows in tables.values() for row in rows}
    hits = {}
    for image in sorted(rows):
        others = [rows[other] for other in sorted(rows) if other != image]
        hits.setdefault(rows[image]["label"], []).append(compare(others, [rows[image]], encodings))
    return [f"{100 * value:.2f}" for value in np.mean([np.mean(h, axis=0) for h in hits.values()], axis=0)]


if __name__ == "__main__":
    if len(sys.argv) == 3:
        for name, cells in evaluate(*read(*sys.argv[1:])).items():
            print(f"{name:20}", *cells)
    else:
        write(OUT, *cohort(np.random.default_rng(5)))
        files = read(OUT / "all_encodings.csv", OUT / "gmdb_metadata")
        expected = evaluate(*files, 1e-6)
        assert expected != evaluate(*files, 1e-6, True), "no tie decides anything: take another seed"
        expected["leave_one_out"] = leave_one_out(*files)
        (OUT / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
        print(expected)
        print(sum(path.stat().st_size for path in OUT.rglob("*") if path.is_file()), "bytes")
