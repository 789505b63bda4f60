//! Inner products, of two vectors and of many, in one order of plain additions and multiplications.
//!
//! A product is [`LANES`] sums of every eighth term each, from the first term to the last; then these sums, in a fixed tree;
//! then the terms beyond the last whole chunk. Blocks of vectors keep many such sums in registers and go through the terms
//! panel by panel, which changes neither the terms of a sum nor their order; nothing is fused.

use std::sync::LazyLock;

use rayon::prelude::*;

static ARCH: LazyLock<pulp::Arch> = LazyLock::new(pulp::Arch::new);

/// Partial sums of a product: a register of AVX. A constant, since the order of summation follows from it.
const LANES: usize = 8;
/// Vectors whose products with as many others are in registers at a time.
const SIDE: usize = 3;
/// Terms of each lane that are gone through before the next vectors' turn: a panel of [`GROUP`] bundles stays in a core's
/// first cache.
const PANEL: usize = 32;
/// Bundles of probes that go through a panel together.
const GROUP: usize = 4;
/// Gallery vectors in a thread's turn: their bundles stay in a core's second cache.
const COLUMNS: usize = 8 * SIDE;
/// Probes for which the gallery is read once.
const BAND: usize = 256;

type Lanes = [f32; LANES];
/// As many vectors side by side, chunk by chunk.
type Bundle = Vec<[Lanes; SIDE]>;
/// The lanes of the products of two bundles' vectors.
type Sums = [[Lanes; SIDE]; SIDE];

/// The partial sums and the products beyond the last whole chunk, in the one order that every inner product has.
#[inline(always)]
fn total(lanes: &Lanes, a: &[f32], b: &[f32]) -> f32 {
    let tail: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
    let [l0, l1, l2, l3, l4, l5, l6, l7] = lanes;
    (((l0 + l4) + (l2 + l6)) + ((l1 + l5) + (l3 + l7))) + tail
}

/// The inner product of two vectors of one length.
#[inline(always)]
pub(super) fn product(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    total(&sums, a_tail, b_tail)
}

/// [`product`] of each of `probes` with each of `gallery`, row-major; all of one length. Bit for bit that, whatever the
/// processor and the number of threads.
pub(super) fn products(probes: &[&[f32]], gallery: &[&[f32]]) -> Vec<f32> {
    let width = gallery.len();
    let mut values = vec![0f32; probes.len() * width];
    for (rows, probes) in values.chunks_mut(BAND * width.max(1)).zip(probes.chunks(BAND)) {
        let bundles: Vec<Bundle> = probes.par_chunks(SIDE).map(bundle).collect();
        let blocks: Vec<Vec<f32>> = gallery
            .par_chunks(COLUMNS)
            .map(|gallery| {
                let mut block = vec![0f32; probes.len() * gallery.len()];
                // Compiled for the widest vectors that the processor has.
                ARCH.dispatch(Block { probes, bundles: &bundles, gallery, block: &mut block });
                block
            })
            .collect();
        for (at, (block, gallery)) in blocks.iter().zip(gallery.chunks(COLUMNS)).enumerate() {
            for (row, block) in rows.chunks_mut(width).zip(block.chunks(gallery.len())) {
                row[at * COLUMNS..][..gallery.len()].copy_from_slice(block);
            }
        }
    }
    values
}

/// Up to [`SIDE`] vectors side by side, beside zeros where there are fewer.
fn bundle(vectors: &[&[f32]]) -> Bundle {
    let mut bundle = vec![[[0f32; LANES]; SIDE]; vectors[0].len() / LANES];
    for (at, vector) in vectors.iter().enumerate() {
        for (place, chunk) in bundle.iter_mut().zip(vector.as_chunks::<LANES>().0) {
            place[at] = *chunk;
        }
    }
    bundle
}

/// The products of some probes with some of a gallery.
struct Block<'a> {
    probes: &'a [&'a [f32]],
    /// The probes, bundled.
    bundles: &'a [Bundle],
    gallery: &'a [&'a [f32]],
    /// Row-major.
    block: &'a mut [f32],
}

// A struct and not a closure: the compiler may leave a closure out of line, and so without wide vectors.
impl pulp::NullaryFnOnce for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { probes, bundles, gallery, block } = self;
        let columns: Vec<Bundle> = gallery.chunks(SIDE).map(bundle).collect();
        let mut sums = vec![[[[0f32; LANES]; SIDE]; SIDE]; GROUP * columns.len()];
        for (at, rows) in bundles.chunks(GROUP).enumerate() {
            sums.fill([[[0f32; LANES]; SIDE]; SIDE]);
            for from in (0..rows[0].len()).step_by(PANEL) {
                let panel = from..rows[0].len().min(from + PANEL);
                for (columns, sums) in columns.iter().zip(sums.chunks_exact_mut(GROUP)) {
                    for (row, sums) in rows.iter().zip(sums) {
                        *sums = add(*sums, &row[panel.clone()], &columns[panel.clone()]);
                    }
                }
            }
            for (i, probe) in probes.iter().enumerate().skip(at * GROUP * SIDE).take(GROUP * SIDE) {
                for (j, other) in gallery.iter().enumerate() {
                    let sums = &sums[j / SIDE * GROUP + i / SIDE % GROUP][i % SIDE][j % SIDE];
                    let tails = [probe, other].map(|vector| vector.as_chunks::<LANES>().1);
                    block[i * gallery.len() + j] = total(sums, tails[0], tails[1]);
                }
            }
        }
    }
}

/// Some more terms of the products of two bundles. Written out, because the compiler keeps these sums in registers and
/// those of a nested loop not.
#[inline(always)]
fn add(sums: Sums, rows: &[[Lanes; SIDE]], columns: &[[Lanes; SIDE]]) -> Sums {
    let [[mut s00, mut s01, mut s02], [mut s10, mut s11, mut s12], [mut s20, mut s21, mut s22]] = sums;
    for ([p, q, r], [a, b, c]) in rows.iter().zip(columns) {
        for lane in 0..LANES {
            s00[lane] += p[lane] * a[lane];
            s01[lane] += p[lane] * b[lane];
            s02[lane] += p[lane] * c[lane];
            s10[lane] += q[lane] * a[lane];
            s11[lane] += q[lane] * b[lane];
            s12[lane] += q[lane] * c[lane];
            s20[lane] += r[lane] * a[lane];
            s21[lane] += r[lane] * b[lane];
            s22[lane] += r[lane] * c[lane];
        }
    }
    [[s00, s01, s02], [s10, s11, s12], [s20, s21, s22]]
}
