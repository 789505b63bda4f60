//! Shamir's secret sharing (CACM 1979) over GF(256), byte by byte, for secrets of 32 bytes.
//!
//! The field is GF(2)[x] / (x^8 + x^4 + x^3 + x + 1), AES's. Arithmetic uses no tables and no
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
