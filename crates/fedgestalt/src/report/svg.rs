//! A small SVG writer. Colours and fonts are the style sheet's: shapes carry classes only.

use std::fmt::{self, Write as _};

use askama::filters::HtmlSafe;

/// Text that already is safe HTML: only this module and constants of the page make it.
#[derive(Clone, Debug, Default)]
pub(super) struct Markup(String);

impl Markup {
    /// Takes text that is part of the program, such as the style sheet.
    pub(super) fn constant(text: &'static str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for Markup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl HtmlSafe for Markup {}

/// Which end of a text lies at its point.
#[derive(Clone, Copy, Debug)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A drawing of fixed size in its own units (one unit is one CSS pixel at full width).
#[derive(Debug)]
pub(super) struct Canvas {
    width: f64,
    height: f64,
    body: String,
}

impl Canvas {
    pub(super) fn new(width: f64, height: f64) -> Self {
        Self { width, height, body: String::new() }
    }

    pub(super) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let attributes = [("x1", from.0), ("y1", from.1), ("x2", to.0), ("y2", to.1)];
        self.shape("line", class, &attributes, "");
    }

    /// A rectangle; `hint` is shown while the pointer rests on it.
    pub(super) fn rect(&mut self, class: &str, corner: (f64, f64), size: (f64, f64), hint: &str) {
        let attributes =
            [("x", corner.0), ("y", corner.1), ("width", size.0.max(0.0)), ("height", size.1.max(0.0))];
        self.shape("rect", class, &attributes, hint);
    }

    pub(super) fn circle(&mut self, class: &str, centre: (f64, f64), radius: f64, hint: &str) {
        let attributes = [("cx", centre.0), ("cy", centre.1), ("r", radius)];
        self.shape("circle", class, &attributes, hint);
    }

    fn shape(&mut self, element: &str, class: &str, attributes: &[(&str, f64)], hint: &str) {
        if attributes.iter().any(|(_, value)| !value.is_finite()) {
            return;
        }
        let _ = write!(self.body, "<{element} class=\"{class}\"");
        for (name, value) in attributes {
            let _ = write!(self.body, " {name}=\"{}\"", Number(*value));
        }
        self.close(element, hint);
    }

    fn close(&mut self, element: &str, hint: &str) {
        if hint.is_empty() {
            self.body.push_str("/>");
        } else {
            let _ = write!(self.body, "><title>{}</title></{element}>", Escaped(hint));
        }
    }

    /// A line through `points`, interrupted at every point that is not finite; a lone point becomes a dot.
    pub(super) fn polyline(&mut self, class: &str, points: &[(f64, f64)], hint: &str) {
        let mut path = String::new();
        let finite = |p: &(f64, f64)| p.0.is_finite() && p.1.is_finite();
        for piece in points.split(|p| !finite(p)) {
            for (i, (x, y)) in piece.iter().enumerate() {
                let command = if i == 0 { 'M' } else { 'L' };
                let _ = write!(path, "{command}{} {}", Number(*x), Number(*y));
            }
            if piece.len() == 1 {
                path.push_str("h0");
            }
        }
        self.path(class, &path, hint);
    }

    /// A path; `commands` come from this module or from numbers written with [`Number`].
    pub(super) fn path(&mut self, class: &str, commands: &str, hint: &str) {
        if commands.is_empty() {
            return;
        }
        let _ = write!(self.body, "<path class=\"{class}\" d=\"{commands}\"");
        self.close("path", hint);
    }

    pub(super) fn text(&mut self, class: &str, at: (f64, f64), anchor: Anchor, text: &str) {
        if !(at.0.is_finite() && at.1.is_finite()) {
            return;
        }
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let _ = write!(
            self.body,
            "<text class=\"{class}\" x=\"{}\" y=\"{}\" text-anchor=\"{anchor}\">{}</text>",
            Number(at.0),
            Number(at.1),
            Escaped(text)
        );
    }

    /// A bitmap stretched without smoothing; `uri` is a data URI.
    pub(super) fn bitmap(&mut self, class: &str, corner: (f64, f64), size: (f64, f64), uri: &str) {
        let _ = write!(
            self.body,
            "<image class=\"{class}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" \
             preserveAspectRatio=\"none\" href=\"{}\"/>",
            Number(corner.0),
            Number(corner.1),
            Number(size.0),
            Number(size.1),
            Escaped(uri)
        );
    }

    /// The finished drawing. `id` must be unique on the page; `title` and `description` are read out instead of it.
    pub(super) fn finish(self, id: &str, title: &str, description: &str) -> Markup {
        let (width, height) = (Number(self.width), Number(self.height));
        Markup(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\" \
             width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\
             <title id=\"{id}-t\">{}</title><desc id=\"{id}-d\">{}</desc>{}</svg>",
            Escaped(title),
            Escaped(description),
            self.body
        ))
    }

    /// The finished drawing as ornament of a text that says the same: hidden from screen readers.
    pub(super) fn ornament(self, class: &str) -> Markup {
        let (width, height) = (Number(self.width), Number(self.height));
        Markup(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"{class}\" aria-hidden=\"true\" \
             width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">{}</svg>",
            self.body
        ))
    }
}

/// A coordinate with at most two decimals and no trailing zeros.
pub(super) struct Number(pub(super) f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounded = (self.0 * 100.0).round() / 100.0;
        // Adding zero turns -0 into 0.
        write!(f, "{}", rounded + 0.0)
    }
}

/// Text inside an element or a quoted attribute; characters that XML forbids become U+FFFD.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                '\t' | '\n' | '\r' => f.write_char(' ')?,
                c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {
                    f.write_char('\u{fffd}')?;
                }
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Width in units that `text` takes at `size`, estimated for a common sans-serif face.
pub(super) fn text_width(text: &str, size: f64) -> f64 {
    text.chars()
        .map(|c| match c {
            'i' | 'j' | 'l' | 'I' | '.' | ',' | '\'' | '|' | ':' | ';' | '\u{202f}' => 0.28,
            'f' | 'r' | 't' | '(' | ')' | '-' | ' ' => 0.35,
            'm' | 'w' | 'M' | 'W' | '@' | '%' => 0.88,
            c if c.is_ascii_uppercase() => 0.69,
            c if (c as u32) > 0x2e80 => 1.0,
            _ => 0.56,
        })
        .sum::<f64>()
        * size
}

/// As much of `text` as fits into `room`, with an ellipsis where it does not fit whole.
pub(super) fn fit(text: &str, size: f64, room: f64) -> String {
    if text_width(text, size) <= room {
        return text.to_owned();
    }
    let mut kept = String::new();
    for c in text.chars() {
        kept.push(c);
        if text_width(&kept, size) + size > room {
            kept.pop();
            break;
        }
    }
    format!("{}…", kept.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_never_negative_zero() {
        let written: Vec<_> = [1.0, 0.126, -0.001, 12.5, 1e6].map(|v| Number(v).to_string()).into();
        assert_eq!(written, ["1", "0.13", "0", "12.5", "1000000"]);
    }

    #[test]
    fn long_names_are_cut_to_the_room() {
        assert_eq!(fit("Noonan", 10.0, 100.0), "Noonan");
        let cut = fit("Nicolaides-Baraitser syndrome", 10.0, 100.0);
        assert!(cut.ends_with('…') && cut.starts_with("Nicolaides"), "{cut}");
        assert!(text_width(&cut, 10.0) <= 100.0);
        assert_eq!(fit("Noonan", 10.0, 0.0), "…");
    }

    #[test]
    fn a_gap_splits_a_line_and_nothing_not_finite_is_written() {
        let mut canvas = Canvas::new(10.0, 10.0);
        let gap = (3.0, f64::NAN);
        canvas.polyline("l", &[(1.0, 1.0), (2.0, 2.0), gap, (4.0, 4.0)], "");
        canvas.circle("c", (f64::NAN, 0.0), 1.0, "");
        canvas.text("t", (f64::INFINITY, 0.0), Anchor::Start, "x");
        let svg = canvas.finish("f", "t", "d").to_string();
        assert!(svg.contains("d=\"M1 1L2 2M4 4h0\""), "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf") && !svg.contains("<circle"));
    }

    #[test]
    fn hostile_text_stays_text() {
        let mut canvas = Canvas::new(10.0, 10.0);
        let hostile = "</text><script>alert('&')</script>\"\u{0}";
        canvas.text("t", (0.0, 0.0), Anchor::Start, hostile);
        canvas.rect("r", (0.0, 0.0), (1.0, 1.0), hostile);
        let svg = canvas.finish("f", hostile, hostile).to_string();
        assert!(!svg.contains("<script") && !svg.contains("alert('"));
        assert_eq!(svg.matches("&lt;script&gt;alert(&#39;&amp;&#39;)").count(), 4);
        assert!(!svg.contains('\u{0}'));
    }
}
