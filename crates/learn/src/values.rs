//! A layer's numbers where they lie.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// Numbers that many may hold and nobody alters: of a layer of 50 MB there is one copy, or none where they lie in a mapped
/// file.
#[derive(Clone)]
pub struct Values(Arc<dyn AsRef<[f32]> + Send + Sync>);

impl Values {
    /// Numbers as `holder` has them, always the same.
    pub fn new(holder: impl AsRef<[f32]> + Send + Sync + 'static) -> Self {
        Self(Arc::new(holder))
    }
}

impl From<Vec<f32>> for Values {
    fn from(values: Vec<f32>) -> Self {
        Self::new(values)
    }
}

impl Deref for Values {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        (*self.0).as_ref()
    }
}

impl PartialEq for Values {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Values({})", self.len())
    }
}
