//! Numbers as a reader expects them: one way of writing each quantity, a dash where there is none.

/// What stands where nothing was measured.
pub(crate) const NONE: &str = "–";

/// `digits` decimals with a true minus sign; a dash for NaN and infinities; never `−0`.
pub(crate) fn decimal(value: f64, digits: usize) -> String {
    if !value.is_finite() {
        return NONE.to_owned();
    }
    let text = format!("{:.digits$}", value.abs());
    let zero = text.bytes().all(|b| matches!(b, b'0' | b'.'));
    if value < 0.0 && !zero { format!("−{text}") } else { text }
}

/// A percentage with its sign, for running text.
pub(super) fn percent(value: f64) -> String {
    if value.is_finite() { format!("{}\u{202f}%", decimal(value, 1)) } else { NONE.to_owned() }
}

/// Thousands apart: `6 500`.
pub(super) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// Bytes in decimal units.
pub(crate) fn bytes(value: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut amount = value as f64;
    let mut unit = 0;
    while amount >= 999.5 && unit + 1 < units.len() {
        amount /= 1000.0;
        unit += 1;
    }
    let digits = if unit == 0 || amount >= 99.95 {
        0
    } else if amount >= 9.995 {
        1
    } else {
        2
    };
    format!("{amount:.digits$}\u{202f}{}", units[unit])
}

/// Seconds, in minutes and hours where they are many.
pub(crate) fn seconds(value: f64) -> String {
    if !value.is_finite() || value < 0.0 {
        return NONE.to_owned();
    }
    if value < 0.9995 {
        return format!("{:.0}\u{202f}ms", value * 1000.0);
    }
    if value < 99.95 {
        let digits = if value < 9.995 { 2 } else { 1 };
        return format!("{value:.digits$}\u{202f}s");
    }
    let whole = value.round() as u64;
    let (hours, minutes, rest) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours > 0 {
        format!("{hours}\u{202f}h {minutes:02}\u{202f}min")
    } else {
        format!("{minutes}\u{202f}min {rest:02}\u{202f}s")
    }
}

/// `1st`, `2nd`, `3rd`, `11th`.
pub(super) fn ordinal(number: u32) -> String {
    let ending = match (number % 10, number % 100) {
        (1, rest) if rest != 11 => "st",
        (2, rest) if rest != 12 => "nd",
        (3, rest) if rest != 13 => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(decimal(52.99, 1), "53.0");
        assert_eq!(decimal(-1.25, 2), "−1.25");
        assert_eq!(decimal(-0.001, 1), "0.0");
        assert_eq!(decimal(f64::NAN, 1), NONE);
        assert_eq!(percent(f64::INFINITY), NONE);
        assert_eq!(count(6500), "6\u{202f}500");
        assert_eq!(count(999), "999");
        assert_eq!(bytes(0), "0\u{202f}B");
        assert_eq!(bytes(999), "999\u{202f}B");
        assert_eq!(bytes(1000), "1.00\u{202f}kB");
        assert_eq!(bytes(999_999), "1.00\u{202f}MB");
        assert_eq!(bytes(12_345_678), "12.3\u{202f}MB");
        assert_eq!(bytes(u64::MAX), "18446744\u{202f}TB");
        assert_eq!(seconds(0.25), "250\u{202f}ms");
        assert_eq!(seconds(12.34), "12.3\u{202f}s");
        assert_eq!(seconds(192.0), "3\u{202f}min 12\u{202f}s");
        assert_eq!(seconds(7260.0), "2\u{202f}h 01\u{202f}min");
        assert_eq!(seconds(f64::NAN), NONE);
        assert_eq!(
            [1, 2, 3, 4, 11, 12, 13, 21].map(ordinal).join(" "),
            "1st 2nd 3rd 4th 11th 12th 13th 21st"
        );
    }
}
