//! Authenticated boxes.
