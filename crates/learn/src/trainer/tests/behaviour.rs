//! What a training promises beyond its numbers.

use rayon::ThreadPoolBuilder;

use super::*;

const SHAPE: HeadShape = HeadShape { input: 600, dim: 64, classes: 9 };

/// 45 images of nine classes on three draws, separable but not trivially.
fn cohort(shape: HeadShape) -> (MemoryFeatures, Vec<Example>) {
    let (images, draws) = (5 * shape.classes, 3);
    let centres = noise(11, shape.classes * shape.input);
    let mut values = noise(12, images * draws * shape.input);
    for (index, row) in values.chunks_exact_mut(shape.input).enumerate() {
        let class = index / draws % shape.classes;
        for (value, centre) in row.iter_mut().zip(&centres[class * shape.input..]) {
            *value = 2.0 * *value + 0.3 * centre;
        }
    }
    let rows = (0..images).map(|row| Example { row, label: (row % shape.classes) as u32 }).collect();
    (MemoryFeatures::new(shape.input, draws, values).unwrap(), rows)
}

fn recipe() -> Recipe {
    Recipe { batch: 11, ..Recipe::r50() }
}

fn trainer(shape: HeadShape) -> Trainer {
    Trainer::new(head(shape, 1), recipe(), &vec![1.0; shape.classes], 5).unwrap()
}

fn head_bits(head: &Head) -> Vec<u32> {
    head.tensors().iter().flat_map(|tensor| bits(tensor.values)).collect()
}

#[test]
fn training_learns() {
    let (data, rows) = cohort(SHAPE);
    let weights = [1.0; SHAPE.classes];
    let mut start = Head::zeros(SHAPE, Head::BN_EPS).unwrap();
    let neck: Vec<f32> = noise(6, SHAPE.input * SHAPE.dim).iter().map(|value| 0.04 * value).collect();
    start.set_tensor("neck.weight", &neck).unwrap();
    let recipe = Recipe { classifier_lr: 1e-2, ..recipe() };
    let mut trainer = Trainer::new(start, recipe, &weights, 5).unwrap();
    let before = trainer.head().evaluate(&data, &rows, &weights, Classifier::Linear).unwrap();
    let first = trainer.epoch(&data, &rows, 0).unwrap();
    assert_eq!((first.examples, first.steps), (45, 4), "11, 11, 11, and 11 with the last single one");
    for epoch in 1..15 {
        trainer.epoch(&data, &rows, epoch).unwrap();
    }
    let after = trainer.head().evaluate(&data, &rows, &weights, Classifier::Linear).unwrap();
    assert!(before.accuracy < 0.2 && after.accuracy > 0.95, "{before:?} to {after:?}");
    assert!(after.loss < before.loss / 3.0, "{before:?} to {after:?}");
}

#[test]
fn an_epoch_makes_the_updates_of_its_plan_one_after_the_other() {
    // The pass that updates the neck already multiplies the next batch; that must change nothing.
    let (data, rows) = cohort(SHAPE);
    let mut whole = trainer(SHAPE);
    let mut single = whole.clone();
    whole.epoch(&data, &rows, 4).unwrap();
    for (step, batch) in plan::batches(&rows, 5, 4, 11, 3).iter().enumerate() {
        let mut features = Vec::new();
        gather(&data, batch, &mut features);
        let labels: Vec<u32> = batch.iter().map(|pick| pick.example.label).collect();
        let mut mask = vec![0.0; batch.len() * SHAPE.dim];
        random::dropout(&mut random::stream(5, Purpose::Dropout, 4, step as u32), 0.5, &mut mask);
        update(&mut single, &features, &labels, &mask);
    }
    assert_eq!(head_bits(&whole.head()), head_bits(&single.head()));
}

#[test]
fn the_sweep_over_many_tiles_equals_the_definition() {
    // 71 tiles in 24 groups of at most three, the last of both short.
    let shape = HeadShape { input: 9001, dim: 512, classes: 1 };
    let (n, next_n) = (3, 2);
    let start = Param::new(noise(1, shape.input * shape.dim));
    let features = noise(2, n * shape.input);
    let grad = noise(3, n * shape.dim);
    let next = noise(4, next_n * shape.input);
    let step = AdamStep::new(&Recipe::r50(), 1e-3, 1e-2, 1);
    let mut swept = start.clone();
    let (mut partials, mut product) = (Vec::new(), Vec::new());
    let update = sweep::Update { features: &features, grad: &grad, step };
    sweep::sweep(&mut swept, shape, Some(update), Some((&next, next_n)), &mut partials, &mut product);

    let mut expected = start;
    let mut gradient = vec![0.0; expected.values.len()];
    for (row, out) in gradient.chunks_exact_mut(shape.dim).enumerate() {
        for (j, out) in out.iter_mut().enumerate() {
            *out = (0..n)
                .map(|i| f64::from(features[i * shape.input + row]) * f64::from(grad[i * shape.dim + j]))
                .sum::<f64>() as f32;
        }
    }
    expected.update(step, &gradient);
    let mut sums = vec![0.0f64; next_n * shape.dim];
    for (row, weights) in swept.values.chunks_exact(shape.dim).enumerate() {
        for (i, sums) in sums.chunks_exact_mut(shape.dim).enumerate() {
            for (sum, &weight) in sums.iter_mut().zip(weights) {
                *sum += f64::from(next[i * shape.input + row]) * f64::from(weight);
            }
        }
    }
    let pairs = [(&swept.first, &expected.first), (&swept.second, &expected.second)];
    for (got, want) in pairs.into_iter().flat_map(|(got, want)| got.iter().zip(want)) {
        assert!((got - want).abs() <= 1e-6, "moment {got} against {want}");
    }
    for (got, want) in product.iter().zip(&sums) {
        // Sums of 9,001 terms up to 1: about 55 in size, rounded at 6e-8 each time.
        assert!((f64::from(*got) - want).abs() < 1e-3, "product {got} against {want}");
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    // Several tiles and groups of the sweep, several blocks of `represent`.
    let shape = HeadShape { input: 700, dim: 300, classes: 9 };
    let (data, rows) = cohort(shape);
    let run = |threads: usize| {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut trainer = trainer(shape);
            let losses: Vec<u64> =
                (0..3).map(|epoch| trainer.epoch(&data, &rows, epoch).unwrap().loss.to_bits()).collect();
            let head = trainer.head();
            let scores = head.evaluate(&data, &rows, &vec![1.0; shape.classes], Classifier::Linear).unwrap();
            let represented = head.represent(&noise(9, 70 * shape.input), 70).unwrap();
            (losses, trainer.state().unwrap(), scores.loss.to_bits(), bits(&represented))
        })
    };
    let one = run(1);
    assert!(one == run(2), "two threads");
    assert!(one == run(4), "four threads");
}

#[test]
fn a_restored_trainer_goes_on_bit_for_bit() {
    let (data, rows) = cohort(SHAPE);
    let recipe = Recipe { proximal: 0.01, rates: RateSchedule::Cosine { epochs: 6 }, ..recipe() };
    let trainer = |shape| Trainer::new(head(shape, 1), recipe, &[1.0; SHAPE.classes], 5).unwrap();
    let mut straight = trainer(SHAPE);
    for epoch in 0..5 {
        straight.epoch(&data, &rows, epoch).unwrap();
    }
    let mut stopped = trainer(SHAPE);
    for epoch in 0..5 {
        stopped.epoch(&data, &rows, epoch).unwrap();
        stopped = Trainer::restore(&stopped.state().unwrap()).unwrap();
    }
    assert!(straight.state().unwrap() == stopped.state().unwrap());
    assert_eq!(stopped.recipe(), &recipe);
}

#[test]
fn a_state_that_was_cut_or_changed_is_refused() {
    let shape = HeadShape { input: 5, dim: 3, classes: 2 };
    let state = trainer(shape).state().unwrap();
    for length in 0..state.len() {
        let error = Trainer::restore(&state[..length]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Truncated, "{length}: {error}");
    }
    for at in 0..state.len() {
        let mut changed = state.clone();
        changed[at] ^= 0x40;
        assert!(Trainer::restore(&changed).is_err(), "byte {at}");
    }
    let mut longer = state;
    longer.push(0);
    assert!(Trainer::restore(&longer).is_err());
}

#[test]
fn a_feature_that_is_not_finite_is_named_and_poisons_the_trainer() {
    let (data, rows) = cohort(SHAPE);
    let mut values = vec![0.0; 45 * SHAPE.input];
    for (row, out) in values.chunks_exact_mut(SHAPE.input).enumerate() {
        data.copy_row(row, 0, out);
    }
    values[17 * SHAPE.input + 3] = f32::NAN;
    let broken = MemoryFeatures::new(SHAPE.input, 1, values).unwrap();
    let mut trainer = trainer(SHAPE);
    let good = trainer.state().unwrap();

    let error = trainer.epoch(&broken, &rows, 2).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NonFinite);
    let message = error.to_string();
    assert!(message.contains("epoch 2, step") && message.contains("row 17 draw 0"), "{message}");
    let error = Head::evaluate(&trainer.head(), &broken, &rows, &[1.0; SHAPE.classes], Classifier::Linear)
        .unwrap_err();
    assert!(error.to_string().contains("row 17"), "{error}");

    for poisoned in [
        trainer.epoch(&data, &rows, 2).unwrap_err(),
        trainer.state().unwrap_err(),
        trainer.set_head(&head(SHAPE, 1), Moments::Keep).unwrap_err(),
    ] {
        assert_eq!(poisoned.kind(), ErrorKind::Poisoned, "{poisoned}");
        assert!(poisoned.to_string().contains("row 17"), "{poisoned}");
    }
    trainer.set_head(&head(SHAPE, 1), Moments::Reset).unwrap();
    assert!(trainer.state().unwrap() == good, "as it was before the failure");
    trainer.epoch(&data, &rows, 2).unwrap();
}

#[test]
fn weights_that_explode_are_named() {
    let (data, rows) = cohort(SHAPE);
    let recipe = Recipe { neck_lr: 1e38, classifier_lr: 1e38, ..recipe() };
    let mut trainer = Trainer::new(head(SHAPE, 1), recipe, &[1.0; SHAPE.classes], 5).unwrap();
    let error = (0..3).find_map(|epoch| trainer.epoch(&data, &rows, epoch).err()).unwrap();
    assert_eq!(error.kind(), ErrorKind::NonFinite);
    assert!(error.to_string().contains("epoch 0, step 1"), "{error}");
    assert_eq!(trainer.updates(), 1, "the update after the explosion was not made");
}

#[test]
fn unusable_input_is_refused_and_changes_nothing() {
    let (data, rows) = cohort(SHAPE);
    let mut trainer = trainer(SHAPE);
    let before = trainer.state().unwrap();
    let narrow = MemoryFeatures::new(3, 1, vec![0.0; 30]).unwrap();
    for (source, examples, expected) in [
        (&narrow, rows.clone(), "600 features"),
        (&data, vec![Example { row: 45, label: 0 }, rows[0]], "row 45"),
        (&data, vec![Example { row: 0, label: 9 }, rows[0]], "label 9"),
        (&data, vec![rows[0]], "at least two"),
        (&data, vec![], "at least two"),
    ] {
        let error = trainer.epoch(source, &examples, 0).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert!(trainer.state().unwrap() == before);
    assert!(trainer.set_head(&head(HeadShape { dim: 65, ..SHAPE }, 1), Moments::Keep).is_err());
    for weights in [&[1.0; 8][..], &[0.0; 9], &[f32::NAN; 9]] {
        assert!(Trainer::new(head(SHAPE, 1), recipe(), weights, 5).is_err());
    }
}

#[test]
fn replacing_the_head_keeps_or_resets_the_moments() {
    let (data, rows) = cohort(SHAPE);
    let mut trained = trainer(SHAPE);
    trained.epoch(&data, &rows, 0).unwrap();

    let mut kept = trained.clone();
    kept.set_head(&trained.head(), Moments::Keep).unwrap();
    assert!(kept.state().unwrap() == trained.state().unwrap(), "its own head back: nothing changes");

    let mut reset = trained.clone();
    reset.set_head(&trained.head(), Moments::Reset).unwrap();
    let fresh = Trainer::new(trained.head(), recipe(), &[1.0; SHAPE.classes], 5).unwrap();
    assert!(reset.state().unwrap() == fresh.state().unwrap());
}

/// Every trained value with its first moment, tensor by tensor.
fn moments(trainer: &mut Trainer) -> Vec<(Vec<f32>, Vec<f32>)> {
    trainer.params_mut().map(|param| (param.values.clone(), param.first.clone())).to_vec()
}

#[test]
fn a_proximal_term_adds_its_multiple_of_the_way_from_the_rounds_weights_to_the_gradient() {
    let (data, rows) = cohort(SHAPE);
    let (mut features, mut labels) = (vec![0.0; 11 * SHAPE.input], Vec::new());
    for (out, example) in features.chunks_exact_mut(SHAPE.input).zip(&rows) {
        data.copy_row(example.row, 0, out);
        labels.push(example.label);
    }
    let mask = vec![1.0; 11 * SHAPE.dim];
    let one_step = |proximal: f64| {
        let recipe = Recipe { proximal, neck_wd: 0.0, classifier_wd: 0.0, ..recipe() };
        let mut trainer = Trainer::new(head(SHAPE, 1), recipe, &[1.0; SHAPE.classes], 5).unwrap();
        for param in trainer.params_mut() {
            param.anchor.iter_mut().for_each(|value| *value -= 0.5);
        }
        update(&mut trainer, &features, &labels, &mask);
        moments(&mut trainer)
    };
    let (free, pulled) = (one_step(0.0), one_step(0.2));
    for ((_, free), (_, pulled)) in free.iter().zip(&pulled) {
        for (free, pulled) in free.iter().zip(pulled) {
            // The first moment after one step is a tenth of the gradient: 0.1 x 0.2 x 0.5.
            assert!((pulled - free - 0.01).abs() < 1e-6, "{pulled} against {free}");
        }
    }
}

#[test]
fn a_stronger_proximal_term_keeps_a_site_nearer_to_the_rounds_weights() {
    let (data, rows) = cohort(SHAPE);
    let start = head(SHAPE, 1);
    let way = |proximal: f64| {
        let recipe = Recipe { proximal, neck_wd: 0.0, classifier_wd: 0.0, ..recipe() };
        let mut trainer = Trainer::new(head(SHAPE, 9), recipe, &[1.0; SHAPE.classes], 5).unwrap();
        trainer.set_head(&start, Moments::Reset).unwrap();
        for epoch in 0..6 {
            trainer.epoch(&data, &rows, epoch).unwrap();
        }
        let end = trainer.head();
        let squares =
            end.neck_weight.iter().zip(start.neck_weight.iter()).map(|(a, b)| f64::from(a - b).powi(2));
        squares.sum::<f64>().sqrt()
    };
    let (free, weak, strong) = (way(0.0), way(0.1), way(10.0));
    assert!(strong < 0.5 * free && strong < weak && weak < free, "{free} {weak} {strong}");
}

#[test]
fn a_schedule_is_a_learning_rate_per_epoch() {
    let (data, rows) = cohort(SHAPE);
    let train = |recipe: Recipe, epochs: std::ops::Range<u32>| {
        let mut trainer = Trainer::new(head(SHAPE, 1), recipe, &[1.0; SHAPE.classes], 5).unwrap();
        for epoch in epochs {
            trainer.epoch(&data, &rows, epoch).unwrap();
        }
        head_bits(&trainer.head())
    };
    let step = Recipe { rates: RateSchedule::Step { epochs: 4 }, ..recipe() };
    assert_eq!(train(step, 0..2), train(recipe(), 0..2), "1 in the first half");
    let tenth =
        Recipe { neck_lr: 0.1 * recipe().neck_lr, classifier_lr: 0.1 * recipe().classifier_lr, ..recipe() };
    assert_eq!(train(step, 2..3), train(tenth, 2..3), "a tenth in the third quarter");
    assert_ne!(train(step, 0..3), train(recipe(), 0..3));
}

#[test]
fn a_pace_is_one_factor_more_until_the_next() {
    let (data, rows) = cohort(SHAPE);
    let half =
        Recipe { neck_lr: 0.5 * recipe().neck_lr, classifier_lr: 0.5 * recipe().classifier_lr, ..recipe() };
    let train = |recipe: Recipe, pace: Option<f64>| {
        let mut trainer = Trainer::new(head(SHAPE, 1), recipe, &[1.0; SHAPE.classes], 5).unwrap();
        pace.into_iter().for_each(|pace| trainer.set_pace(pace).unwrap());
        for epoch in 0..2 {
            trainer.epoch(&data, &rows, epoch).unwrap();
        }
        head_bits(&trainer.head())
    };
    assert_eq!(train(recipe(), Some(0.5)), train(half, None));
    assert_eq!(train(recipe(), Some(1.0)), train(recipe(), None));
    let mut trainer = Trainer::new(head(SHAPE, 1), recipe(), &[1.0; SHAPE.classes], 5).unwrap();
    for pace in [0.0, -0.5, 1.5, f64::NAN] {
        assert!(trainer.set_pace(pace).unwrap_err().to_string().contains("pace"), "{pace}");
    }
}

#[test]
fn training_learns_with_every_classifier() {
    let (data, rows) = cohort(SHAPE);
    let mut start = Head::zeros(SHAPE, Head::BN_EPS).unwrap();
    let neck: Vec<f32> = noise(6, SHAPE.input * SHAPE.dim).iter().map(|value| 0.04 * value).collect();
    start.set_tensor("neck.weight", &neck).unwrap();
    start.set_tensor("classifier.weight", &noise(7, SHAPE.classes * SHAPE.dim)).unwrap();
    for classifier in [Classifier::Cosine { scale: 16.0 }, Classifier::ArcFace { scale: 16.0, margin: 0.3 }] {
        let recipe = Recipe { classifier, classifier_lr: 1e-2, ..recipe() };
        let mut trainer = Trainer::new(start.clone(), recipe, &[1.0; SHAPE.classes], 5).unwrap();
        for epoch in 0..15 {
            trainer.epoch(&data, &rows, epoch).unwrap();
        }
        let head = trainer.head();
        assert_eq!(head.classifier_bias, start.classifier_bias, "the bias is not used");
        let after = head.evaluate(&data, &rows, &[1.0; SHAPE.classes], classifier).unwrap();
        assert!(after.accuracy > 0.95, "{classifier:?}: {after:?}");
        let restored = Trainer::restore(&trainer.state().unwrap()).unwrap();
        assert_eq!(restored.recipe().classifier, classifier);
    }
}
