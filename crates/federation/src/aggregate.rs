//! How a site's update becomes words of a secure sum, and the sum an averaged update.

mod counts;
mod digests;
mod gradients;
mod numbers;
mod pairs;
mod scale;
mod sums;

use domain::evaluate::HitCounts;
use secure::fixed::{Integers, WideScale};
use secure::sum::Words;

pub(crate) use self::counts::Counts;
pub(crate) use self::digests::ModelDigests;
use self::scale::SegmentScale;
pub(crate) use self::sums::SumsOf;
use crate::action::{RoundMetrics, Tensors};
use crate::plan::{Aggregation, FormPlan, MAX_WORDS, Plan, Rows, Stage, TensorKind};
use crate::refusal::{RefusalKind, Result, refusal, refuse};

/// Largest sum of losses, or number of images, that a site may report.
const METRIC_RANGE: f64 = 1e12;
const METRICS: usize = 6;
/// Values that are moved at a time from one form to another: 4 MiB.
const PART: usize = 1 << 20;

/// One site's update as it leaves training.
#[derive(Debug)]
pub struct Update {
    /// Deltas, `[member][tensor][element]` in plan order; classifier tensors have one row per trained syndrome.
    pub deltas: Tensors,
    /// The round's metrics.
    pub metrics: RoundMetrics,
}

/// Where the tensors of a plan lie in the words of a secure sum.
#[derive(Debug, Clone)]
pub struct Layout {
    /// As they lie: those of short words first.
    segments: Vec<Segment>,
    /// Tensors per member, with their full lengths: trained members first, closed-form members and weights behind.
    lengths: Vec<Vec<usize>>,
    forms: Vec<FormPlan>,
    starts: Vec<FormPlan>,
    /// Members whose weights are fitted; they stand behind the closed forms as one tensor.
    weighed: Option<usize>,
    integers: Integers,
    names: Vec<(String, Vec<String>)>,
    aggregation: Aggregation,
    rows: Rows,
    trained: usize,
    values: usize,
    metrics: WideScale,
}

#[derive(Debug, Clone)]
struct Segment {
    member: usize,
    tensor: usize,
    /// First of its words.
    start: usize,
    /// Elements.
    len: usize,
    /// Row length, for classifier rows.
    row: Option<usize>,
    kind: TensorKind,
    scale: SegmentScale,
}

impl Segment {
    fn words(&self) -> std::ops::Range<usize> {
        self.start..self.start + self.len * self.scale.words()
    }
}

impl Layout {
    /// The layout for so many trained syndromes and sites.
    pub fn new(plan: &Plan, trained: usize, sites: usize) -> Result<Self> {
        let mut segments = Vec::new();
        let mut lengths = Vec::new();
        let mut values = 0usize;
        for (m, member) in plan.members.iter().enumerate() {
            let mut member_lengths = Vec::new();
            for (t, spec) in member.tensors.iter().enumerate() {
                let one: usize = spec.shape.iter().product();
                let row = (spec.kind == TensorKind::ClassifierRows).then_some(one);
                let len = if row.is_some() { one.saturating_mul(trained) } else { one };
                let words = len.saturating_mul(SegmentScale::words_per_value(plan, spec.kind));
                if len > MAX_WORDS || values.saturating_add(words) > MAX_WORDS {
                    refuse!(
                        PlanInvalid,
                        "the plan's tensors have over {MAX_WORDS} elements; train fewer members"
                    );
                }
                member_lengths.push(len);
                if row.is_some() && plan.aggregation == Aggregation::EncoderOnly {
                    continue;
                }
                let scale = SegmentScale::new(plan, spec, sites)
                    .map_err(|e| refusal(RefusalKind::PlanInvalid, format!("tensor {}: {e}", spec.name)))?;
                segments.push(Segment { member: m, tensor: t, start: 0, len, row, kind: spec.kind, scale });
                values += words;
            }
            lengths.push(member_lengths);
        }
        segments.sort_by_key(|segment| !SegmentScale::is_short(segment.kind));
        let mut start = 0;
        for segment in &mut segments {
            segment.start = start;
            start = segment.words().end;
        }
        let mut names: Vec<(String, Vec<String>)> = plan
            .members
            .iter()
            .map(|m| (m.name.clone(), m.tensors.iter().map(|t| t.name.clone()).collect()))
            .collect();
        let words = |forms: &[FormPlan]| forms.iter().map(|form| form.words(trained)).sum::<usize>();
        if words(&plan.forms).max(words(&plan.starts)) > MAX_WORDS - Integers::WORDS * plan.starts.len() {
            refuse!(PlanInvalid, "the closed forms' sums have over {MAX_WORDS} words; plan fewer of them");
        }
        let refined = plan.forms.iter().filter(|form| form.steps() > 0);
        if refined.map(|form| form.gradient_words(trained)).sum::<usize>() > MAX_WORDS {
            refuse!(PlanInvalid, "the gradients have over {MAX_WORDS} words; refine fewer closed forms");
        }
        for form in &plan.forms {
            names.push((form.name.clone(), vec!["mean".to_owned(), "projection".to_owned()]));
            lengths.push(vec![form.dim, form.outputs * form.dim]);
        }
        if let Some(members) = plan.weighed() {
            names.push(("of the ensemble".to_owned(), vec!["weights".to_owned()]));
            lengths.push(vec![members]);
        }
        let metrics = WideScale::for_range(METRIC_RANGE, sites)?;
        Ok(Self {
            segments,
            lengths,
            forms: plan.forms.clone(),
            starts: plan.starts.clone(),
            weighed: plan.weighed(),
            integers: Integers::for_sites(sites)?,
            names,
            aggregation: plan.aggregation,
            rows: plan.rows,
            trained,
            values,
            metrics,
        })
    }

    /// Words of a training round: values, weights, metrics.
    pub fn words(&self) -> Words {
        let short = self.segments.iter().filter(|segment| SegmentScale::is_short(segment.kind));
        let short = short.map(|segment| segment.words().len()).sum();
        Words { short, long: self.values + self.weights() + self.metric_words() - short }
    }

    /// Words of a round's metrics.
    fn metric_words(&self) -> usize {
        METRICS * WideScale::WORDS
    }

    fn weights(&self) -> usize {
        match self.aggregation {
            Aggregation::SyndromeRows => 1 + self.trained,
            _ => 1,
        }
    }

    fn trained_members(&self) -> usize {
        self.lengths.len() - self.forms.len() - usize::from(self.weighed.is_some())
    }

    /// Full lengths of the tensors, `[member][tensor]`: trained members, closed-form members and, where they are fitted, the
    /// members' weights as one tensor.
    pub fn lengths(&self) -> &[Vec<usize>] {
        &self.lengths
    }

    fn name(&self, member: usize, tensor: usize) -> String {
        let (name, tensors) = &self.names[member];
        format!("member {name}, tensor {}", tensors[tensor])
    }

    /// Whether a classifier row travels.
    fn travels(&self, counts: &Counts, row: usize) -> bool {
        match self.rows {
            Rows::All => true,
            Rows::Shared(k) => counts.holders[row] >= u32::from(k),
        }
    }

    fn check_shape<T: AsRef<[f32]>>(&self, tensors: &[Vec<T>], members: usize, what: &str) -> Result<()> {
        if tensors.len() != members {
            refuse!(Update, "{what} of {} members; the plan has {members}", tensors.len());
        }
        for (m, (given, wanted)) in tensors.iter().zip(&self.lengths).enumerate() {
            if given.len() != wanted.len() {
                refuse!(
                    Update,
                    "{what} of member {}: {} tensors, not {}",
                    self.names[m].0,
                    given.len(),
                    wanted.len()
                );
            }
            for (t, (given, wanted)) in given.iter().zip(wanted).enumerate() {
                let given = given.as_ref().len();
                if given != *wanted {
                    refuse!(Update, "{what} of {}: {given} elements, not {wanted}", self.name(m, t));
                }
            }
        }
        Ok(())
    }

    /// A site's update, weighted and in fixed point. `own` holds the site's training images by row.
    ///
    /// Tensors are freed as they are encoded. NaN, an infinity or a value out of range is an error that
    /// names member and tensor, also in a row that does not travel.
    pub(crate) fn encode(&self, update: Update, own: &[u32], counts: &Counts) -> Result<Vec<u32>> {
        let Update { deltas, metrics } = update;
        self.check_shape(&deltas, self.trained_members(), "an update")?;
        let images: u64 = own.iter().map(|&n| u64::from(n)).sum();
        let mut words = vec![0u32; self.words().count()];
        for (m, member) in deltas.into_iter().enumerate() {
            for (t, mut values) in member.into_iter().enumerate() {
                let segment = self.segments.iter().find(|s| (s.member, s.tensor) == (m, t));
                let range = segment.map_or(f32::MAX, |s| s.scale.range());
                if let Some(at) = values.iter().position(|x| x.is_nan() || x.abs() > range) {
                    refuse!(
                        Update,
                        "{}: element {at} is {}, and the plan allows finite values up to {range}; \
                         lower the learning rate or look for corrupt images",
                        self.name(m, t),
                        values[at]
                    );
                }
                let Some(segment) = segment else { continue };
                self.weigh(segment, &mut values, own, images, counts);
                // Freed as it is encoded, last values first, so that a large tensor is not there twice.
                let width = segment.scale.words();
                while !values.is_empty() {
                    let first = (values.len() - 1) / PART * PART;
                    let to = segment.start + first * width..segment.start + values.len() * width;
                    segment
                        .scale
                        .encode(&values[first..], &mut words[to])
                        .map_err(|e| refusal(RefusalKind::Update, format!("{}: {e}", self.name(m, t))))?;
                    values.truncate(first);
                    values.shrink_to_fit();
                }
            }
        }
        let weights = &mut words[self.values..self.values + self.weights()];
        match self.aggregation {
            Aggregation::Mean => weights[0] = u32::from(images > 0),
            _ => weights[0] = images as u32,
        }
        if self.aggregation == Aggregation::SyndromeRows {
            for (row, weight) in weights[1..].iter_mut().enumerate() {
                *weight = if self.travels(counts, row) { own[row] } else { 0 };
            }
        }
        let start = self.values + self.weights();
        self.put_metrics(&metrics, &mut words[start..])?;
        Ok(words)
    }

    fn put_metrics(&self, m: &RoundMetrics, words: &mut [u32]) -> Result<()> {
        let list =
            [m.loss, m.correct, m.images, m.validation_loss, m.validation_correct, m.validation_images];
        self.metrics
            .encode(&list, words)
            .map_err(|e| refusal(RefusalKind::Update, format!("metrics of the round: {e}")))
    }

    /// A site's metrics alone, in fixed point.
    pub(crate) fn encode_metrics(&self, metrics: &RoundMetrics) -> Result<Vec<u32>> {
        let mut words = vec![0; self.metric_words()];
        self.put_metrics(metrics, &mut words)?;
        Ok(words)
    }

    /// The added metrics of an opened sum.
    pub(crate) fn decode_metrics(&self, sum: &[u32]) -> Result<RoundMetrics> {
        let mut m = [0.0; METRICS];
        self.metrics.decode(sum, &mut m)?;
        Ok(RoundMetrics {
            loss: m[0],
            correct: m[1],
            images: m[2],
            validation_loss: m[3],
            validation_correct: m[4],
            validation_images: m[5],
        })
    }

    fn weigh(&self, segment: &Segment, values: &mut [f32], own: &[u32], images: u64, counts: &Counts) {
        let whole = match self.aggregation {
            Aggregation::Mean => 1.0,
            _ => images as f64 / counts.images.max(1) as f64,
        };
        let Some(width) = segment.row else {
            values.iter_mut().for_each(|x| *x = (f64::from(*x) * whole) as f32);
            return;
        };
        for (row, values) in values.chunks_exact_mut(width).enumerate() {
            let weight = match self.aggregation {
                _ if !self.travels(counts, row) => 0.0,
                Aggregation::SyndromeRows => f64::from(own[row]) / f64::from(counts.rows[row].max(1)),
                _ => whole,
            };
            values.iter_mut().for_each(|x| *x = (f64::from(*x) * weight) as f32);
        }
    }

    /// The averaged deltas and the added metrics of an opened sum, which is freed as it is read.
    pub(crate) fn decode(&self, mut sum: Vec<u32>, counts: &Counts) -> Result<(Tensors, RoundMetrics)> {
        let wanted = self.words().count();
        if sum.len() != wanted {
            refuse!(Malformed, "a sum of {} words; the plan gives {wanted}", sum.len());
        }
        let metrics = self.decode_metrics(&sum[self.values + self.weights()..])?;
        let weights = sum[self.values..self.values + self.weights()].to_vec();
        let factor = |total: f64, weight: u32| if weight == 0 { 0.0 } else { total / f64::from(weight) };
        let whole = match self.aggregation {
            Aggregation::Mean => factor(1.0, weights[0]),
            _ => factor(counts.images as f64, weights[0]),
        };
        // Zeros where nothing travels; fresh ones take no memory before they are written.
        let members = &self.lengths[..self.trained_members()];
        let mut deltas: Tensors =
            members.iter().map(|lengths| lengths.iter().map(|&len| vec![0.0; len]).collect()).collect();
        for segment in self.segments.iter().rev() {
            sum.truncate(segment.words().end);
            let out = &mut deltas[segment.member][segment.tensor];
            let width = segment.scale.words();
            let of_row = |row: usize| factor(f64::from(counts.rows[row]), weights[1 + row]);
            let by_row = segment.row.filter(|_| self.aggregation == Aggregation::SyndromeRows);
            let by = |at: usize| by_row.map_or(whole, |width| of_row(at / width));
            while sum.len() > segment.start {
                let first = ((sum.len() - segment.start) / width - 1) / PART * PART;
                let words = segment.start + first * width;
                segment.scale.decode(&sum[words..], &mut out[first..], |at| by(first + at))?;
                sum.truncate(words);
                sum.shrink_to_fit();
            }
        }
        Ok((deltas, metrics))
    }

    /// Which tensors a release publishes, as (member, tensor, elements).
    pub(crate) fn published(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        let trained = self.segments.iter().filter(|s| s.row.is_none()).map(|s| (s.member, s.tensor, s.len));
        let forms = self.lengths.iter().enumerate().skip(self.trained_members());
        let forms =
            forms.flat_map(|(m, tensors)| tensors.iter().enumerate().map(move |(t, &len)| (m, t, len)));
        trained.chain(forms)
    }
}

/// Words of the secure sum of a stage.
pub(crate) fn stage_words(plan: &Plan, layout: &Layout, trained: usize, all: usize, stage: u32) -> Words {
    let long = match plan.stage(stage) {
        Stage::Round => return layout.words(),
        Stage::Counts => 2 * trained + 1,
        Stage::Validation => layout.metric_words(),
        Stage::Start => layout.sum_words(SumsOf::Starts),
        Stage::Moments => layout.sum_words(SumsOf::Forms),
        Stage::Gradient => layout.gradient_words(plan.step_of(stage)),
        Stage::Pairs => layout.pair_words(),
        Stage::Metrics => {
            let splits = plan.kernel.as_ref().map_or(0, |k| usize::from(k.splits));
            HitCounts::word_count(all, splits).max(1)
        }
    };
    long.into()
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::plan::Statistics;
    use crate::plan::tests::toy_plan;

    pub(crate) fn counts() -> (Vec<Vec<u32>>, Counts) {
        let own = vec![vec![4, 0, 1], vec![2, 3, 0], vec![6, 1, 0]];
        let rows = (0..3).map(|r| own.iter().map(|o| o[r]).sum()).collect();
        let holders = (0..3).map(|r| own.iter().filter(|o| o[r] > 0).count() as u32).collect();
        (own, Counts { rows, holders, images: 17 })
    }

    fn update(plan: &Plan, layout: &Layout, site: usize) -> Update {
        let deltas = layout
            .lengths()
            .iter()
            .zip(&plan.members)
            .map(|(l, _)| {
                l.iter()
                    .enumerate()
                    .map(|(t, &n)| {
                        (0..n).map(|i| ((site * 31 + t * 7 + i) as f32 * 0.37).sin() * 0.5).collect()
                    })
                    .collect()
            })
            .collect();
        Update {
            deltas,
            metrics: RoundMetrics { loss: 0.5 + site as f64, images: 10.0, ..RoundMetrics::default() },
        }
    }

    fn average(plan: &Plan, present: &[usize]) -> (Tensors, Tensors, Layout) {
        let (own, counts) = counts();
        let layout = Layout::new(plan, 3, 3).unwrap();
        let mut sum = vec![0u32; layout.words().count()];
        for &site in present {
            let words = layout.encode(update(plan, &layout, site), &own[site], &counts).unwrap();
            sum.iter_mut().zip(words).for_each(|(a, b)| *a = a.wrapping_add(b));
        }
        let (got, metrics) = layout.decode(sum.clone(), &counts).unwrap();
        assert_eq!(metrics.images, 10.0 * present.len() as f64);
        // The average written out plainly, element by element.
        let mut want = got.clone();
        for (m, member) in plan.members.iter().enumerate() {
            for (t, spec) in member.tensors.iter().enumerate() {
                let width: usize = spec.shape.iter().product();
                for i in 0..want[m][t].len() {
                    let row = (spec.kind == TensorKind::ClassifierRows).then(|| i / width);
                    let (mut total, mut weight) = (0.0, 0.0);
                    for &site in present {
                        let w = match (plan.aggregation, row) {
                            (Aggregation::EncoderOnly, Some(_)) => 0.0,
                            (_, Some(r)) if matches!(plan.rows, Rows::Shared(k) if counts.holders[r] < u32::from(k)) => {
                                0.0
                            }
                            (Aggregation::Mean, _) => 1.0,
                            (Aggregation::SyndromeRows, Some(r)) => f64::from(own[site][r]),
                            _ => own[site].iter().sum::<u32>() as f64,
                        };
                        total += w * f64::from(update(plan, &layout, site).deltas[m][t][i]);
                        weight += w;
                    }
                    want[m][t][i] = if weight > 0.0 { (total / weight) as f32 } else { 0.0 };
                }
            }
        }
        (got, want, layout)
    }

    #[test]
    fn every_mode_gives_the_plain_weighted_average() {
        for aggregation in ["mean", "sample-weighted", "syndrome-rows", "encoder-only"] {
            for rows in ["all", "shared:2", "shared:3"] {
                for present in [&[0, 1, 2][..], &[0, 2]] {
                    let mut plan = toy_plan();
                    plan.aggregation = aggregation.parse().unwrap();
                    plan.rows = rows.parse().unwrap();
                    let (got, want, _) = average(&plan, present);
                    // Half a step (range 4) for each site present, over the weight of those present; and f32's rounding. Sums of
                    // three sites have steps of 2^-19, weighted means of 2^-20. The least weights: 12 of 17 images, 1 of 4 of a row.
                    let tolerance = 5e-8
                        + match (aggregation, present.len()) {
                            ("mean", _) => 2f32.powi(-20),
                            ("syndrome-rows", _) => 2.0 * 2f32.powi(-21) * 4.0,
                            (_, 3) => 3.0 * 2f32.powi(-21),
                            _ => 2.0 * 2f32.powi(-21) * 17.0 / 12.0,
                        };
                    for (g, w) in got.iter().flatten().flatten().zip(want.iter().flatten().flatten()) {
                        assert!((g - w).abs() < tolerance, "{aggregation} {rows} {present:?}: {g} {w}");
                    }
                }
            }
        }
    }

    /// A second moment's change may be as large as a mean's square, and its last digits are what variances are made of.
    #[test]
    fn statistics_that_are_pooled_travel_with_all_their_digits() {
        let error = |statistics: Statistics| {
            let mut plan = toy_plan();
            plan.tuning.statistics = statistics;
            plan.members[0].tensors[1].range = 16_842_752.0;
            let (own, counts) = counts();
            let layout = Layout::new(&plan, 3, 3).unwrap();
            let mut sum = vec![0u32; layout.words().count()];
            let (mut want, mut error) = (0.0, 0.0f64);
            for (site, own) in own.iter().enumerate() {
                let mut update = update(&plan, &layout, site);
                update.deltas[0][1] = vec![1e-4 * (site as f32 + 1.0), -3.0, 1e7];
                want += f64::from(update.deltas[0][1][0]) * f64::from(own.iter().sum::<u32>()) / 17.0;
                let words = layout.encode(update, own, &counts).unwrap();
                sum.iter_mut().zip(words).for_each(|(a, b)| *a = a.wrapping_add(b));
            }
            let (got, _) = layout.decode(sum, &counts).unwrap();
            error = error.max((f64::from(got[0][1][0]) / want - 1.0).abs());
            assert!((got[0][1][1] + 3.0).abs() < 0.02 && (got[0][1][2] - 1e7).abs() < 2.0);
            error
        };
        assert!(error(Statistics::Pooled) < 1e-6);
        assert!(error(Statistics::Averaged) > 0.5, "one word has no room for both");
        let mut plan = toy_plan();
        plan.tuning.statistics = Statistics::Pooled;
        let (own, counts) = counts();
        let layout = Layout::new(&plan, 3, 3).unwrap();
        for bad in [f32::NAN, f32::INFINITY, -4.1] {
            let mut update = update(&plan, &layout, 0);
            update.deltas[0][1][2] = bad;
            let error = layout.encode(update, &own[0], &counts).unwrap_err();
            assert!(error.to_string().contains("tensor bn.running_mean: element 2"), "{error}");
        }
    }

    #[test]
    fn a_site_without_images_changes_no_average() {
        for aggregation in ["mean", "sample-weighted", "syndrome-rows", "encoder-only"] {
            let mut plan = toy_plan();
            plan.aggregation = aggregation.parse().unwrap();
            let (own, counts) = counts();
            let layout = Layout::new(&plan, 3, 4).unwrap();
            let mut sum = vec![0u32; layout.words().count()];
            let mut add = |update: Update, own: &[u32]| {
                let words = layout.encode(update, own, &counts).unwrap();
                sum.iter_mut().zip(words).for_each(|(a, b)| *a = a.wrapping_add(b));
                layout.decode(sum.clone(), &counts).unwrap().0
            };
            let mut without = Vec::new();
            for (site, own) in own.iter().enumerate() {
                without = add(update(&plan, &layout, site), own);
            }
            let still = without.iter().map(|m| m.iter().map(|t| vec![0.0; t.len()]).collect()).collect();
            let none = Update { deltas: still, metrics: RoundMetrics::default() };
            assert_eq!(add(none, &[0, 0, 0]), without, "{aggregation}");
        }
    }

    #[test]
    fn bad_values_are_named() {
        let plan = toy_plan();
        let (own, counts) = counts();
        let layout = Layout::new(&plan, 3, 3).unwrap();
        for bad in [f32::NAN, f32::INFINITY, -4.1] {
            let mut u = update(&plan, &layout, 0);
            u.deltas[0][0][3] = bad;
            let error = layout.encode(u, &own[0], &counts).unwrap_err();
            assert_eq!(error.kind(), RefusalKind::Update);
            assert!(error.to_string().contains("member toy, tensor neck.weight: element 3"), "{error}");
        }
        let mut u = update(&plan, &layout, 0);
        u.deltas[0].pop();
        assert_eq!(layout.encode(u, &own[0], &counts).unwrap_err().kind(), RefusalKind::Update);
    }

    #[test]
    fn hashes_cover_what_is_shared_and_nothing_else() {
        let mut plan = toy_plan();
        plan.rows = Rows::Shared(2);
        let (_, counts) = counts();
        let layout = Layout::new(&plan, 3, 3).unwrap();
        let model = update(&plan, &layout, 0).deltas;
        let base = layout.digests(&model, &counts).unwrap();
        // Row 2 has one holder, so it stays local; row 1 has two.
        let width: usize = plan.members[0].tensors[2].shape.iter().product();
        let mut local = model.clone();
        local[0][2][2 * width] += 1.0;
        assert_eq!(layout.digests(&local, &counts).unwrap(), base);
        let mut shared = model.clone();
        shared[0][2][width] += 1.0;
        let shared = layout.digests(&shared, &counts).unwrap();
        assert_ne!(shared.whole, base.whole);
        assert_eq!(shared.members, base.members);
        let mut encoder = model;
        encoder[0][1][0] += 1.0;
        assert_ne!(layout.digests(&encoder, &counts).unwrap().members, base.members);
    }
}
