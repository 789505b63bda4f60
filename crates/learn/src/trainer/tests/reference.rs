//! Against PyTorch in float64 (`reference/learn_vectors.py`).

use safetensors::SafeTensors;

use super::*;

struct Vectors<'a>(SafeTensors<'a>);

impl Vectors<'_> {
    fn bytes(&self, name: &str) -> &[u8] {
        self.0.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}")).data()
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        self.bytes(name).chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    fn f64(&self, name: &str) -> Vec<f64> {
        self.bytes(name).chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
    }

    fn u32(&self, name: &str) -> Vec<u32> {
        self.bytes(name).chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    /// The head whose tensors' names start with `prefix`.
    fn head(&self, prefix: &str) -> Head {
        let shape = |name: &str| self.0.tensor(&format!("{prefix}{name}")).unwrap().shape().to_vec();
        let (neck, classifier) = (shape("neck.weight"), shape("classifier.weight"));
        let shape = HeadShape { input: neck[1], dim: neck[0], classes: classifier[0] };
        let mut head = Head::zeros(shape, Head::BN_EPS).unwrap();
        for name in Head::TENSORS {
            head.set_tensor(name, &self.f32(&format!("{prefix}{name}"))).unwrap();
        }
        head
    }
}

/// Length of the difference over length of the reference.
fn relative_error(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    if got == want {
        return 0.0;
    }
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut got.iter().zip(want).map(|(&a, &b)| f64::from(a) - f64::from(b)));
    difference / norm(&mut want.iter().map(|&b| f64::from(b)))
}

#[track_caller]
fn assert_close(what: &str, got: &[f32], want: &[f32], tolerance: f64) {
    let error = relative_error(got, want);
    assert!(error <= tolerance, "{what}: relative error {error:.1e} over {tolerance:.0e}");
}

fn check_gradients(bytes: &[u8]) {
    let vectors = Vectors(SafeTensors::deserialize(bytes).unwrap());
    // Without decay the first moment after one update is (1 - beta1) times the gradient.
    let recipe = Recipe { neck_wd: 0.0, classifier_wd: 0.0, ..Recipe::r50() };
    let mut trainer = Trainer::new(vectors.head("start."), recipe, &vectors.f32("class_weights"), 0).unwrap();
    let loss = update(&mut trainer, &vectors.f32("x"), &vectors.u32("labels"), &vectors.f32("mask"));

    let want = vectors.f64("loss")[0];
    let got = loss.scores().loss;
    assert!((got - want).abs() <= 1e-6 * want, "loss {got} against {want}");
    let HeadShape { input, dim, .. } = trainer.shape;
    for (name, moment) in [
        ("neck.weight", &transpose(&trainer.neck_weight.first, input, dim)),
        ("bn.weight", &trainer.bn_weight.first),
        ("bn.bias", &trainer.bn_bias.first),
        ("classifier.weight", &trainer.classifier_weight.first),
        ("classifier.bias", &trainer.classifier_bias.first),
    ] {
        let gradient: Vec<f32> =
            moment.iter().map(|&m| (f64::from(m) / (1.0 - recipe.beta1)) as f32).collect();
        assert_close(name, &gradient, &vectors.f32(&format!("grad.{name}")), 1e-6);
    }
    // Zero by theory and in ours; rounding noise of float64 in the reference.
    assert!(vectors.f32("grad.neck.bias").iter().all(|value| value.abs() < 1e-12));
    assert!(trainer.neck_bias.first.iter().all(|&value| value == 0.0));
    // One batch's worth of running statistics, the variance unbiased.
    let after = vectors.head("after.");
    assert_close("bn.running_mean", &trainer.bn_mean, &after.bn_mean, 1e-6);
    assert_close("bn.running_var", &trainer.bn_var, &after.bn_var, 1e-6);
}

#[test]
fn gradients_equal_pytorchs() {
    check_gradients(include_bytes!("../../../tests/data/gradients_small.safetensors"));
    check_gradients(include_bytes!("../../../tests/data/gradients_wide.safetensors"));
}

fn check_trajectory(bytes: &[u8], recipe: Recipe) {
    let vectors = Vectors(SafeTensors::deserialize(bytes).unwrap());
    let start = vectors.head("start.");
    let HeadShape { input, dim, .. } = start.shape();
    let class_weights = vectors.f32("class_weights");
    let (x, labels) = (vectors.f32("x"), vectors.u32("labels"));
    let (all_masks, losses) = (vectors.f32("masks"), vectors.f64("losses"));
    let (mut masks, mut losses) = (&all_masks[..], losses.iter());
    let mut trainer = Trainer::new(start.clone(), recipe, &class_weights, 0).unwrap();
    for (epoch, order) in vectors.u32("orders").chunks(labels.len()).enumerate() {
        for rows in order.chunks(recipe.batch) {
            let rows: Vec<usize> = rows.iter().map(|&row| row as usize).collect();
            let features: Vec<f32> =
                rows.iter().flat_map(|&row| &x[row * input..][..input]).copied().collect();
            let batch_labels: Vec<u32> = rows.iter().map(|&row| labels[row]).collect();
            let (mask, rest) = masks.split_at(rows.len() * dim);
            masks = rest;
            let got = update(&mut trainer, &features, &batch_labels, mask).scores().loss;
            let want = losses.next().unwrap();
            assert!((got - want).abs() <= 1e-5 * want, "epoch {epoch}: loss {got} against {want}");
        }
        let (got, want) = (trainer.head(), vectors.head(&format!("epoch{epoch}.")));
        for ((got, want), start) in got.tensors().iter().zip(&want.tensors()).zip(&start.tensors()) {
            let what = format!("epoch {epoch}, {}", got.name);
            assert_close(&what, got.values, want.values, 1e-6);
            // The changes are small beside the values, and Adam's division magnifies rounding where a gradient is
            // nearly zero; they must still agree to 1e-4.
            let change = |values: &[f32]| -> Vec<f32> {
                values.iter().zip(start.values).map(|(a, b)| a - b).collect()
            };
            assert_close(&format!("change to {what}"), &change(got.values), &change(want.values), 1e-4);
        }
    }
    assert!(masks.is_empty() && losses.next().is_none());

    let head = trainer.head();
    let n = labels.len();
    assert_close("represent", &head.represent(&x, n).unwrap(), &vectors.f32("represented"), 1e-6);
    let examples: Vec<Example> =
        labels.iter().enumerate().map(|(row, &label)| Example { row, label }).collect();
    let features = MemoryFeatures::new(input, 1, x).unwrap();
    let scores = head.evaluate(&features, &examples, &class_weights, recipe.classifier).unwrap();
    let want = vectors.f64("eval_loss")[0];
    assert!((scores.loss - want).abs() <= 1e-5 * want, "loss {} against {want}", scores.loss);
    assert_eq!((scores.accuracy * n as f64).round() as u32, vectors.u32("eval_correct")[0]);
}

#[test]
fn trajectories_follow_pytorchs() {
    let r50 = Recipe { batch: 8, ..Recipe::r50() };
    check_trajectory(include_bytes!("../../../tests/data/trajectory_r50.safetensors"), r50);
    let r100 = Recipe { batch: 20, ..Recipe::r100() };
    check_trajectory(include_bytes!("../../../tests/data/trajectory_r100.safetensors"), r100);
}
