//! Tests of `reload`.
