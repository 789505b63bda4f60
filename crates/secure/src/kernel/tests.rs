//! The kernel keeps inner products, hides everything else, and has its stated limit.

#![allow(clippy::unwrap_used)]

use chacha20::ChaCha20Rng;
use faer::linalg::solvers::Solve;
use faer::{Mat, MatRef};
use rand::{RngExt, SeedableRng};

use crate::{ErrorKind, GroupKey};

use super::*;

fn key() -> GroupKey {
    GroupKey::from_bytes([3; 32])
}

/// Random unit vectors.
fn encodings(count: usize, dim: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let mut out = Vec::with_capacity(count * dim);
    for _ in 0..count {
        let vector: Vec<f64> = (0..dim).map(|_| rng.random::<f64>() - 0.45).collect();
        let norm = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
        out.extend(vector.iter().map(|x| (x / norm) as f32));
    }
    out
}

/// Inner products in f64.
fn plain(probes: &[f32], gallery: &[f32], width: usize) -> Vec<f64> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum();
    probes.chunks(width).flat_map(|a| gallery.chunks(width).map(move |b| dot(a, b))).collect()
}

fn largest_difference(a: &[f32], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max)
}

#[test]
fn inner_products_stay() {
    for (dim, width) in [(1, 1), (1, 5), (100, 100), (129, 200), (512, 512), (512, 600), (2048, 2048)] {
        let rotation = Rotation::derive_wide(&key(), &[1; 32], dim, width).unwrap();
        let (gallery, probes) = (encodings(20, dim, 1), encodings(7, dim, 2));
        let masked = [&gallery, &probes].map(|e| rotation.mask(e).unwrap());
        assert_eq!(masked[0].len(), 20 * width);
        let products = gram(&masked[1], &masked[0], width).unwrap();
        let difference = largest_difference(&products, &plain(&probes, &gallery, dim));
        assert!(difference < 2e-6, "{dim} x {width}: {difference}");
    }
}

#[test]
fn the_gram_matrix_is_right_at_the_edges_of_tiles() {
    for (probes, gallery) in [(0, 3), (3, 0), (1, 1), (257, 513), (256, 512)] {
        let (p, g) = (encodings(probes, 17, 1), encodings(gallery, 17, 2));
        let products = gram(&p, &g, 17).unwrap();
        assert!(largest_difference(&products, &plain(&p, &g, 17)) < 1e-6);
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let (dim, key) = (300, key());
    let (gallery, probes) = (encodings(600, dim, 1), encodings(300, dim, 2));
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let rotation = Rotation::derive(&key, &[1; 32], dim).unwrap();
            let (g, p) = (rotation.mask(&gallery).unwrap(), rotation.mask(&probes).unwrap());
            let products = gram(&p, &g, dim).unwrap();
            (g, p, products)
        })
    };
    assert!(run(1) == run(3));
}

#[test]
fn sites_that_mask_apart_agree() {
    let rotation = Rotation::derive(&key(), &[1; 32], 64).unwrap();
    let again = Rotation::derive(&key(), &[1; 32], 64).unwrap();
    let all = encodings(10, 64, 1);
    let whole = rotation.mask(&all).unwrap();
    let parts = [again.mask(&all[..3 * 64]).unwrap(), again.mask(&all[3 * 64..]).unwrap()].concat();
    let difference = whole.iter().zip(&parts).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference < 1e-6, "{difference}");
}

#[test]
fn each_release_and_each_key_has_its_own_rotation() {
    let encoding = encodings(1, 512, 1);
    let mask = |key: &GroupKey, release: &[u8; 32]| {
        Rotation::derive(key, release, 512).unwrap().mask(&encoding).unwrap()
    };
    let first = mask(&key(), &[1; 32]);
    for other in [mask(&key(), &[2; 32]), mask(&GroupKey::from_bytes([4; 32]), &[1; 32])] {
        // The inner product of independent directions has standard deviation 1 / sqrt(512) = 0.044.
        let product = plain(&first, &other, 512)[0];
        assert!(product.abs() < 0.25, "{product}");
    }
}

/// Under a Haar rotation a fixed unit vector becomes uniform on the sphere: each coordinate has
/// mean 0, mean square 1/d and mean fourth power 3 / (d (d + 2)).
#[test]
fn masked_vectors_are_uniform_on_the_sphere() {
    let (dim, keys) = (6, 4000);
    let mut encoding = vec![0.0; dim];
    encoding[0] = 1.0;
    let mut moments = vec![[0.0; 3]; dim];
    for i in 0..keys {
        let mut release = [0; 32];
        release[..4].copy_from_slice(&(i as u32).to_le_bytes());
        let masked = Rotation::derive(&key(), &release, dim).unwrap().mask(&encoding).unwrap();
        for (moment, x) in moments.iter_mut().zip(masked.iter().map(|&x| f64::from(x))) {
            for (total, power) in moment.iter_mut().zip([x, x * x, x.powi(4)]) {
                *total += power / f64::from(keys);
            }
        }
    }
    let d = dim as f64;
    let expected = [0.0, 1.0 / d, 3.0 / (d * (d + 2.0))];
    for moment in moments {
        for (found, expected) in moment.iter().zip(expected) {
            // Five standard errors or more of each of the three means.
            assert!((found - expected).abs() < 0.033, "{moment:?}");
        }
        assert!((moment[2] - expected[2]).abs() < 0.012, "{moment:?}");
    }
}

/// The documented limit: as many known photographs as dimensions open every other one.
#[test]
fn known_encodings_recover_the_rotation() {
    let dim = 48;
    let rotation = Rotation::derive(&key(), &[1; 32], dim).unwrap();
    let known = encodings(dim, dim, 1);
    let secret = encodings(1, dim, 2);
    let (known_masked, secret_masked) = (rotation.mask(&known).unwrap(), rotation.mask(&secret).unwrap());

    let as_f64 = |values: &[f32], rows| {
        let values: MatRef<f32> = MatRef::from_row_major_slice(values, rows, dim);
        Mat::from_fn(rows, dim, |i, j| f64::from(values[(i, j)]))
    };
    let q = as_f64(&known, dim).partial_piv_lu().solve(as_f64(&known_masked, dim));
    let opened = as_f64(&secret_masked, 1) * q.transpose();
    let error = (0..dim).map(|j| (opened[(0, j)] - f64::from(secret[j])).abs()).fold(0.0, f64::max);
    assert!(error < 1e-3, "{error}");

    // With one pair less, one direction of the encoding stays unknown.
    let fewer = as_f64(&known[dim..], dim - 1);
    let directions = fewer.transpose().qr().compute_thin_Q();
    let target = as_f64(&secret, 1);
    let seen = &target * &directions;
    assert!(seen.norm_l2() < 0.9999);
}

#[test]
fn tokens_are_equal_for_equal_names_only() {
    let token = |key: u8, release: u8, label: &str| {
        super::token(&GroupKey::from_bytes([key; 32]), &[release; 32], label)
    };
    let one = token(1, 1, "OMIM:101600");
    assert_eq!(one, token(1, 1, "OMIM:101600"));
    for other in [token(2, 1, "OMIM:101600"), token(1, 2, "OMIM:101600"), token(1, 1, "OMIM:101601")] {
        assert_ne!(one, other);
    }
    assert_eq!(one.to_string().len(), 32);
}

#[test]
fn wrong_shapes_and_values_are_refused() {
    let kind = |dim, width| Rotation::derive_wide(&key(), &[1; 32], dim, width).unwrap_err().kind();
    assert_eq!(kind(0, 4), ErrorKind::Parameter);
    assert_eq!(kind(5, 4), ErrorKind::Parameter);
    let rotation = Rotation::derive(&key(), &[1; 32], 4).unwrap();
    assert_eq!(rotation.mask(&[0.0; 7]).unwrap_err().kind(), ErrorKind::Length);
    let error = rotation.mask(&[0.0, 0.0, 0.0, 0.0, 0.0, f32::NAN, 0.0, 0.0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange);
    assert!(error.to_string().contains("encoding 1 is not finite at dimension 1"));
    assert_eq!(gram(&[0.0; 7], &[0.0; 8], 4).unwrap_err().kind(), ErrorKind::Length);
    assert_eq!(gram(&[], &[], 0).unwrap_err().kind(), ErrorKind::Length);
    assert_eq!(format!("{rotation:?}"), "Rotation(4 x 4, ..)");
}
