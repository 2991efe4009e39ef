//! Tests of `head`.
