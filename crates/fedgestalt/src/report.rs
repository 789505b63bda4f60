//! The self-contained HTML report: figures as inline SVG, pictures as data URIs, nothing fetched.
//!
//! [`render`] turns a [`ReportData`] into one page. The page carries a content security policy that forbids every
//! request and allows only its own style sheet and its own few lines of script (by hash), so it can be mailed,
//! archived and opened inside a hospital. The same data gives the same bytes: there is no clock and no random id.

mod axis;
mod charts;
mod data;
mod experiment;
pub(crate) mod format;
mod page;
mod picture;
mod shape;
mod svg;
mod tables;

pub use data::{
    AccuracyRow, AccuracyTable, Attendance, Candidate, CohortSimilarity, Curves, Disclosure, Discovery, Fact,
    FourSettings, MemberCurves, Merge, Neighbour, Newcomer, Pair, PhaseTime, Presence, Privacy, Probe,
    ReleaseFacts, ReportData, RoundAttendance, RowKind, Series, SettingSize, SiteTraffic, Traffic, Training,
};
pub use experiment::experiment;
pub use picture::Picture;

/// Why a report could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// Lists that belong together differ in length, or an index points nowhere.
    #[error("report section `{section}` does not fit together: {detail}; correct the data and render again")]
    Shape {
        /// Section of the report.
        section: &'static str,
        /// What does not fit.
        detail: String,
    },
    /// A picture is neither PNG nor JPEG, or its data URI is broken.
    #[error("picture for the report: {0}; give the bytes of a PNG or JPEG file")]
    Picture(&'static str),
    /// A figure's bitmap could not be encoded.
    #[error("heat map of the report could not be encoded as PNG")]
    Bitmap(#[from] image::ImageError),
    /// The template could not be filled in.
    #[error("report template could not be filled in")]
    Template(#[from] askama::Error),
}

/// Renders the whole page.
///
/// # Errors
///
/// [`ReportError::Shape`] if lists that belong together differ in length.
pub fn render(data: &ReportData) -> Result<String, ReportError> {
    shape::check(data)?;
    page::render(data)
}
