//! Tests of the secure sum.
