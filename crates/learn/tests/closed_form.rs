//! Closed-form members against NumPy (`reference/closed_form_vectors.py`), and what they promise: one model for any split.
#![allow(clippy::unwrap_used)]

use learn::{ClosedForm, ErrorKind, FormMoments, FormSettings, RandomFeatures, Ridge, Weighting};
use proptest::prelude::*;
use safetensors::SafeTensors;

const DIM: usize = 24;
const CLASSES: usize = 9;
const ALL: [bool; CLASSES] = [true; CLASSES];

struct Cohort {
    rows: Vec<f32>,
    labels: Vec<u32>,
}

fn file() -> Vec<u8> {
    std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/closed_form.safetensors")).unwrap()
}

fn f32s(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let bytes = file.tensor(name).unwrap().data();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn cohort() -> Cohort {
    let bytes = file();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let labels = file.tensor("labels").unwrap().data();
    let labels = labels.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
    Cohort { rows: f32s(&file, "rows"), labels }
}

fn by_power(ridge: f64, power: f64, floor: f64) -> FormSettings {
    FormSettings {
        ridge: Ridge::Fixed(ridge),
        weighting: Weighting::Power { power, floor },
        outputs: None,
        per_image: 1,
    }
}

fn by_held_out(ridge: f64, per_image: usize) -> FormSettings {
    FormSettings { ridge: Ridge::Fixed(ridge), weighting: Weighting::HeldOut, outputs: None, per_image }
}

/// All settings of the reference, and the names of their cosines.
fn settings() -> Vec<(FormSettings, String)> {
    let bytes = file();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let values = |name: &str| -> Vec<f64> {
        let bytes = file.tensor(name).unwrap().data();
        bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let powers = values("settings");
    let powers = powers.chunks_exact(3).map(|v| by_power(v[0], v[1], v[2]));
    let powers = powers.enumerate().map(|(i, settings)| (settings, format!("cosines_{i}")));
    let held_out = values("held_out");
    let held_out = held_out.chunks_exact(2).map(|v| by_held_out(v[0], v[1] as usize));
    let held_out = held_out.enumerate().map(|(i, settings)| (settings, format!("held_out_cosines_{i}")));
    powers.chain(held_out).collect()
}

/// The moments that sites come to together when `site` says where each image lies.
fn added(cohort: &Cohort, sites: usize, site: impl Fn(usize) -> usize) -> FormMoments {
    added_on(None, cohort, sites, site)
}

/// The same for random features of the images.
fn added_on(
    lift: Option<&RandomFeatures>,
    cohort: &Cohort,
    sites: usize,
    site: impl Fn(usize) -> usize,
) -> FormMoments {
    let dim = lift.map_or(DIM, RandomFeatures::width);
    let mut total = FormMoments::zeros(dim, CLASSES);
    for at in 0..sites {
        let own: Vec<usize> = (0..cohort.labels.len()).filter(|&i| site(i) == at).collect();
        let rows: Vec<f32> =
            own.iter().flat_map(|&i| &cohort.rows[i * DIM..(i + 1) * DIM]).copied().collect();
        let labels: Vec<u32> = own.iter().map(|&i| cohort.labels[i]).collect();
        let rows = lift.map_or(rows.clone(), |lift| lift.apply(&rows, own.len()).unwrap());
        total.add(&FormMoments::collect(&rows, dim, &labels, &ALL).unwrap()).unwrap();
    }
    total
}

fn cosines(encoded: &[f32], dim: usize) -> Vec<f64> {
    let unit: Vec<Vec<f64>> = encoded
        .chunks_exact(dim)
        .map(|row| {
            let norm = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            row.iter().map(|&x| f64::from(x) / norm).collect()
        })
        .collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum();
    unit.iter().flat_map(|a| unit.iter().map(move |b| dot(a, b))).collect()
}

#[test]
fn cosines_are_those_of_the_reference() {
    let cohort = cohort();
    let bytes = file();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let moments = added(&cohort, 1, |_| 0);
    for (settings, name) in settings() {
        let form = ClosedForm::solve(&moments, settings).unwrap();
        let encoded = form.apply(&cohort.rows[..40 * DIM], 40).unwrap();
        let worst = cosines(&encoded, DIM)
            .iter()
            .zip(f32s(&file, &name))
            .map(|(got, want)| (got - f64::from(want)).abs())
            .fold(0.0, f64::max);
        // Rows are rounded by up to 2^-19 of their length, which whitening and the power magnify about tenfold.
        assert!(worst < 5e-5, "{settings:?}: {worst}");
    }
}

/// Scores of the ladder against NumPy's, by whole matrices: for three numbers of rows per image, under which whitening adapts the
/// more the larger they are, and for weights by a power.
#[test]
fn the_ridge_is_the_one_under_which_left_out_syndromes_are_told_apart_best() {
    let bytes = file();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let labels: Vec<u32> = f32s(&file, "ridge_labels").iter().map(|&x| x as u32).collect();
    let rows = f32s(&file, "ridge_rows");
    let (dim, shared) = (rows.len() / labels.len(), vec![true; 25]);
    let moments = FormMoments::collect(&rows, dim, &labels, &shared).unwrap();
    let mut chosen = Vec::new();
    for (at, wanted) in f32s(&file, "ridge_scores").chunks_exact(Ridge::LADDER.len()).enumerate() {
        let per_image = [1, 2, 8, 1][at];
        let settings = if at < 3 { by_held_out(0.1, per_image) } else { by_power(0.1, 0.25, 0.05) };
        let settings = FormSettings { ridge: Ridge::HeldOut, ..settings };
        let scores = Ridge::scores(&moments, settings).unwrap();
        for (got, &want) in scores.iter().zip(wanted) {
            // Rows are rounded by up to 2^-19 of their length.
            let alike = *got == f64::from(want) || (got - f64::from(want)).abs() < 2e-4;
            assert!(alike, "{at}: {scores:?} {wanted:?}");
        }
        let ridge = settings.ridge.of(&moments, settings).unwrap();
        let fixed = FormSettings { ridge: Ridge::Fixed(ridge), ..settings };
        assert!(
            ClosedForm::solve(&moments, settings).unwrap() == ClosedForm::solve(&moments, fixed).unwrap()
        );
        chosen.push(ridge);
    }
    assert!(chosen[0] < chosen[2], "fewer images need more ridge: {chosen:?}");
    // Fewer images than dimensions that whitening could adapt to: no ridge can be told from another.
    let few = FormSettings { ridge: Ridge::HeldOut, ..by_held_out(0.1, 13) };
    assert_eq!(Ridge::scores(&moments, few).unwrap(), [f64::NEG_INFINITY; Ridge::LADDER.len()]);
    assert_eq!(few.ridge.of(&moments, few).unwrap(), Ridge::LADDER[4]);
}

/// With no weight on directions in which means do not differ, leaving them out changes nothing; leaving out more keeps those
/// of largest spread.
#[test]
fn outputs_are_the_directions_that_count() {
    let cohort = cohort();
    let moments = added(&cohort, 1, |_| 0);
    let all = by_power(0.3, 0.25, 0.0);
    let encoded = |outputs| {
        let form = ClosedForm::solve(&moments, FormSettings { outputs, ..all }).unwrap();
        assert_eq!(form.outputs(), outputs.unwrap_or(DIM));
        form.apply(&cohort.rows[..40 * DIM], 40).unwrap()
    };
    let wanted = cosines(&encoded(None), DIM);
    // Nine classes: eight directions. More outputs than that are zeros.
    for outputs in [CLASSES - 1, CLASSES, DIM - 1] {
        let got = cosines(&encoded(Some(outputs)), outputs);
        let worst = got.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-5, "{outputs}: {worst}");
    }
    let (three, eight) = (encoded(Some(3)), encoded(Some(8)));
    for (three, eight) in three.chunks(3).zip(eight.chunks(8)) {
        assert_eq!(three, &eight[..3]);
    }
    let spread = |at: usize| eight.chunks(8).map(|row| f64::from(row[at]).powi(2)).sum::<f64>();
    assert!(spread(0) > 1.5 * spread(7));
    let too_many = FormSettings { outputs: Some(DIM + 1), ..all };
    assert!(ClosedForm::solve(&moments, too_many).unwrap_err().to_string().contains("25 outputs"));
}

/// At which site an image lies.
type Draw<'a> = Box<dyn Fn(usize) -> usize + 'a>;

#[test]
fn one_member_for_any_number_of_sites_and_any_draw() {
    let cohort = cohort();
    let settings = FormSettings { ridge: Ridge::HeldOut, ..by_held_out(0.1, 1) };
    let central = ClosedForm::solve(&added(&cohort, 1, |_| 0), settings).unwrap();
    let lift = RandomFeatures::new(DIM, 100, 3, true).unwrap();
    let few = FormSettings { outputs: Some(6), ..by_power(0.1, 0.25, 0.0) };
    let lifted = ClosedForm::solve(&added_on(Some(&lift), &cohort, 1, |_| 0), few).unwrap();
    for sites in [3, 4, 8, 16, 50] {
        let draws: [(&str, Draw<'_>); 3] = [
            ("near-uniform", Box::new(move |i| i % sites)),
            ("non-overlapping", {
                let labels = cohort.labels.clone();
                Box::new(move |i| labels[i] as usize % sites)
            }),
            ("one site has almost all", Box::new(move |i| if i < sites { i } else { 0 })),
        ];
        for (draw, site) in draws {
            let form = ClosedForm::solve(&added(&cohort, sites, &site), settings).unwrap();
            assert!(form == central, "{sites} sites, {draw}");
            let form = ClosedForm::solve(&added_on(Some(&lift), &cohort, sites, &site), few).unwrap();
            assert!(form == lifted, "{sites} sites, {draw}, random features");
        }
    }
}

proptest! {
    #[test]
    fn moments_add_up_exactly(split in prop::collection::vec(0usize..5, 150)) {
        let cohort = cohort();
        prop_assert_eq!(added(&cohort, 5, |i| split[i]), added(&cohort, 1, |_| 0));
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let cohort = cohort();
    let settings = by_power(0.1, 0.25, 0.0);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let form = ClosedForm::solve(&added(&cohort, 1, |_| 0), settings).unwrap();
            let encoded = form.apply(&cohort.rows, cohort.labels.len()).unwrap();
            (form, encoded)
        })
    };
    assert!(run(1) == run(3));
}

#[test]
fn a_class_that_is_not_shared_shows_its_spread_and_not_where_it_lies() {
    let cohort = cohort();
    let shared: Vec<bool> = (0..CLASSES).map(|c| c != 4).collect();
    let moments = FormMoments::collect(&cohort.rows, DIM, &cohort.labels, &shared).unwrap();
    assert_eq!(moments.counts[4], 0);
    assert!(moments.sums[4 * DIM..5 * DIM].iter().all(|&x| x == 0));
    // Images of that class all alike have no spread: they leave nothing in what is sent but their number.
    let one: Vec<f32> = cohort.rows[..DIM].repeat(5);
    let alike = FormMoments::collect(&one, DIM, &[4; 5], &shared).unwrap();
    assert_eq!(alike, FormMoments { rows: 5, ..FormMoments::zeros(DIM, CLASSES) });
    // The covariance within classes is the same whether a class is shared or centred at home.
    let both = FormMoments::collect(&cohort.rows, DIM, &cohort.labels, &ALL).unwrap();
    let settings = by_power(0.1, 0.0, 0.0);
    let (a, b) =
        (ClosedForm::solve(&both, settings).unwrap(), ClosedForm::solve(&moments, settings).unwrap());
    let gram = |form: &ClosedForm| {
        let [_, p] = form.tensors();
        (0..DIM * DIM)
            .map(|at| (0..DIM).map(|k| p[k * DIM + at / DIM] * p[k * DIM + at % DIM]).sum::<f32>())
            .collect::<Vec<f32>>()
    };
    let largest = gram(&a).iter().fold(0.0f32, |m, x| m.max(x.abs()));
    for (x, y) in gram(&a).iter().zip(gram(&b)) {
        assert!((x - y).abs() < 1e-5 * largest, "{x} {y}");
    }
}

#[test]
fn what_cannot_be_solved_is_named() {
    let settings = by_power(0.1, 0.25, 0.0);
    let cohort = cohort();
    let one_class = FormMoments::collect(&cohort.rows, DIM, &[3; 150], &ALL).unwrap();
    assert!(ClosedForm::solve(&one_class, settings).unwrap_err().to_string().contains("2 shared syndromes"));
    let alike = FormMoments::collect(&cohort.rows[..DIM].repeat(4), DIM, &[0, 0, 1, 1], &ALL).unwrap();
    assert!(ClosedForm::solve(&alike, settings).unwrap_err().to_string().contains("all alike"));
    for bad in [f32::NAN, f32::INFINITY] {
        let mut rows = cohort.rows.clone();
        rows[5 * DIM + 3] = bad;
        let error = FormMoments::collect(&rows, DIM, &cohort.labels, &ALL).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NonFinite);
        assert!(error.to_string().contains("representation 5"), "{error}");
    }
    for (ridge, power, floor, word) in
        [(0.0, 0.25, 0.0, "ridge"), (0.1, 0.3, 0.0, "power"), (0.1, 0.25, -1.0, "floor")]
    {
        let error = by_power(ridge, power, floor).check().unwrap_err();
        assert!(error.to_string().starts_with(word), "{error}");
    }
}
