//! Private kernel.
