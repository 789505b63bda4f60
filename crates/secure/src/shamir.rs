//! Shamir's secret sharing (CACM 1979) over GF(256), byte by byte, for secrets of 32 bytes.
//!
//! The field is GF(2)\[x\] / (x^8 + x^4 + x^3 + x + 1), AES's. Arithmetic uses no tables and no
//! branches on secret data. Coefficients are whole random bytes: zero is as likely as any other value,
//! also for the highest, since excluding it would tell something about the secret.

use rand::CryptoRng;
use zeroize::Zeroize;

use crate::{Error, ErrorKind, Result, Secret};

/// The value of the sharing polynomials at one point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Where the polynomials were evaluated: public, never 0.
    pub x: u8,
    /// The 32 values: secret.
    pub y: Secret,
}

/// Splits `secret` so that any `threshold` of the shares give it back and fewer say nothing about it.
///
/// # Errors
/// `Parameter` if the threshold is 0 or above the number of points, or if a point is 0 or repeated.
pub fn split(
    secret: &Secret,
    threshold: usize,
    points: &[u8],
    rng: &mut impl CryptoRng,
) -> Result<Vec<Share>> {
    check_points(points)?;
    if threshold == 0 || threshold > points.len() {
        return Err(Error::new(
            ErrorKind::Parameter,
            format!(
                "{} shares cannot have a threshold of {threshold}: choose one from 1 to {0}",
                points.len()
            ),
        ));
    }
    let mut coefficients = vec![[0; 32]; threshold];
    coefficients[0] = *secret.expose();
    for coefficient in &mut coefficients[1..] {
        rng.fill_bytes(coefficient);
    }
    let shares = points.iter().map(|&x| Share { x, y: evaluate(&coefficients, x) }).collect();
    coefficients.zeroize();
    Ok(shares)
}

/// The secret whose shares these are, by Lagrange interpolation at 0. Give exactly as many shares as
/// the threshold was (more are fine, fewer give a wrong secret: nothing in a share tells).
///
/// # Errors
/// `Parameter` if there is no share, or a point is 0 or repeated.
pub fn reconstruct(shares: &[Share]) -> Result<Secret> {
    let points: Vec<u8> = shares.iter().map(|share| share.x).collect();
    check_points(&points)?;
    let mut secret = [0u8; 32];
    for share in shares {
        let (mut over, mut under) = (1, 1);
        for &other in points.iter().filter(|&&x| x != share.x) {
            over = multiply(over, other);
            under = multiply(under, other ^ share.x);
        }
        let weight = multiply(over, invert(under));
        for (total, &y) in secret.iter_mut().zip(share.y.expose()) {
            *total ^= multiply(weight, y);
        }
    }
    let out = Secret::from_bytes(secret);
    secret.zeroize();
    Ok(out)
}

/// The polynomials with these coefficients (constant term first) at `x`, by Horner's rule.
fn evaluate(coefficients: &[[u8; 32]], x: u8) -> Secret {
    let mut value = [0u8; 32];
    for coefficient in coefficients.iter().rev() {
        for (v, &c) in value.iter_mut().zip(coefficient) {
            *v = multiply(*v, x) ^ c;
        }
    }
    let out = Secret::from_bytes(value);
    value.zeroize();
    out
}

fn check_points(points: &[u8]) -> Result<()> {
    let mut seen = [false; 256];
    for &x in points {
        if x == 0 || std::mem::replace(&mut seen[usize::from(x)], true) {
            return Err(Error::new(
                ErrorKind::Parameter,
                format!("share point {x} is zero or used twice: every share needs its own, from 1 to 255"),
            ));
        }
    }
    if points.is_empty() {
        return Err(Error::new(ErrorKind::Parameter, "no shares given"));
    }
    Ok(())
}

/// Product in GF(256): eight conditional additions, the conditions as masks.
fn multiply(a: u8, b: u8) -> u8 {
    let (mut a, mut product) = (a, 0);
    for bit in 0..8 {
        product ^= a & ((b >> bit) & 1).wrapping_neg();
        a = (a << 1) ^ (0x1b & (a >> 7).wrapping_neg());
    }
    product
}

/// Inverse in GF(256) as a^254; 0 for 0.
fn invert(a: u8) -> u8 {
    let mut power = a;
    let mut product = 1;
    for _ in 1..8 {
        power = multiply(power, power);
        product = multiply(product, power);
    }
    product
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use chacha20::ChaCha20Rng;
    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;

    /// Product by long multiplication and division, as in FIPS 197, section 4.2.
    fn slow_product(a: u8, b: u8) -> u8 {
        let mut product = 0u16;
        for bit in 0..8 {
            if b >> bit & 1 == 1 {
                product ^= u16::from(a) << bit;
            }
        }
        for bit in (8..16).rev() {
            if product >> bit & 1 == 1 {
                product ^= 0x11b << (bit - 8);
            }
        }
        product as u8
    }

    #[test]
    fn the_field_is_a_field() {
        assert_eq!(multiply(0x57, 0x83), 0xc1, "FIPS 197, section 4.2");
        for a in 0..=255 {
            for b in 0..=255 {
                assert_eq!(multiply(a, b), slow_product(a, b));
            }
            assert_eq!(multiply(a, invert(a)), u8::from(a != 0));
        }
    }

    proptest! {
        #[test]
        fn any_threshold_of_shares_gives_the_secret(
            secret: [u8; 32], seed: [u8; 32], threshold in 1usize..12, spare in 0usize..8, turn in 0usize..20,
        ) {
            let secret = Secret::from_bytes(secret);
            let points: Vec<u8> = (1..=(threshold + spare) as u8).map(|x| x.wrapping_mul(11)).collect();
            let mut rng = ChaCha20Rng::from_seed(seed);
            let mut shares = split(&secret, threshold, &points, &mut rng).unwrap();
            let len = shares.len();
            shares.rotate_left(turn % len);
            prop_assert_eq!(reconstruct(&shares[..threshold]).unwrap(), secret.clone());
            prop_assert_eq!(reconstruct(&shares).unwrap(), secret);
        }
    }

    #[test]
    fn one_share_too_few_fits_every_secret_equally_well() {
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let mut counts = [0u32; 256];
        let rounds = 2000;
        for _ in 0..rounds {
            let secret = Secret::from_bytes([42; 32]);
            let shares = split(&secret, 3, &[1, 2, 3], &mut rng).unwrap();
            // What the two shares would mean if the threshold were two: a function of them alone.
            for &byte in reconstruct(&shares[..2]).unwrap().expose() {
                counts[usize::from(byte)] += 1;
            }
        }
        // A coefficient that is never zero would leave out the true secret's value here.
        let expected = f64::from(rounds * 32) / 256.0;
        let statistic: f64 =
            counts.iter().map(|&count| (f64::from(count) - expected).powi(2) / expected).sum();
        assert!((statistic - 255.0).abs() < 6.0 * 510f64.sqrt(), "{statistic}");
    }

    #[test]
    fn impossible_requests_are_refused() {
        let secret = Secret::from_bytes([0; 32]);
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let mut kind =
            |threshold, points: &[u8]| split(&secret, threshold, points, &mut rng).unwrap_err().kind();
        assert_eq!(kind(0, &[1, 2]), ErrorKind::Parameter);
        assert_eq!(kind(3, &[1, 2]), ErrorKind::Parameter);
        assert_eq!(kind(2, &[0, 1]), ErrorKind::Parameter);
        assert_eq!(kind(2, &[1, 1]), ErrorKind::Parameter);
        let share = Share { x: 1, y: secret.clone() };
        assert!(reconstruct(&[]).is_err());
        assert!(reconstruct(&[share.clone(), share]).is_err());
    }
}
