use std::fmt;

/// What was wrong with a message, a document or a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RefusalKind {
    /// The bytes do not decode, or a field has a value that no honest party sends.
    Malformed,
    /// The message speaks a version this program does not know.
    UnsupportedVersion,
    /// The message is longer than the plan allows for its kind.
    Oversized,
    /// The sender is not in the roster, was retired from it, or has no part in the session.
    UnknownSender,
    /// The signature does not fit the sender's key in the roster.
    BadSignature,
    /// The message belongs to another session.
    WrongSession,
    /// The message was accepted before, or belongs to a round or an attempt that is over.
    Replayed,
    /// The message, or the host's call, does not belong to the present phase.
    OutOfPhase,
    /// The message is addressed to somebody else.
    WrongRecipient,
    /// The site's policy does not allow the plan.
    PlanRefused,
    /// The plan contradicts itself or the roster.
    PlanInvalid,
    /// A roster is not signed by the consortium, is older than the pinned one, or moves a site.
    RosterRefused,
    /// A group key, or something sealed under it, does not open or contradicts what is held.
    GroupKey,
    /// The update holds NaN, an infinity or a value beyond the plan's range, or has the wrong shape.
    Update,
    /// Fewer sites take part than the threshold asks for.
    TooFewSites,
    /// Sites do not hold the same thing (model, syndrome list, release) where they must.
    Disagreement,
    /// The ration of kernel answers is used up, or the plan has no kernel.
    Rationed,
    /// The secure sum refused a message or could not go on.
    SecureSum,
    /// A snapshot cannot be restored.
    Snapshot,
}

/// Why a message or a call was refused. A refused message changes no state.
///
/// The text names the culprit (site, round, phase, tensor) and never holds a secret or patient's text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    kind: RefusalKind,
    message: String,
}

impl Refusal {
    pub(crate) fn new(kind: RefusalKind, message: impl fmt::Display) -> Self {
        Self { kind, message: message.to_string() }
    }

    /// What kind of refusal this is.
    pub fn kind(&self) -> RefusalKind {
        self.kind
    }

    /// Puts where it happened before the message.
    pub(crate) fn at(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }
}

pub(crate) type Result<T, E = Refusal> = std::result::Result<T, E>;

macro_rules! refuse {
    ($kind:ident, $($arg:tt)*) => {
        return Err($crate::refusal::Refusal::new($crate::refusal::RefusalKind::$kind, format!($($arg)*)))
    };
}
pub(crate) use refuse;

pub(crate) fn refusal(kind: RefusalKind, message: impl fmt::Display) -> Refusal {
    Refusal::new(kind, message)
}

impl From<secure::Error> for Refusal {
    fn from(error: secure::Error) -> Self {
        Refusal::new(RefusalKind::SecureSum, error)
    }
}
