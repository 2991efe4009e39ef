//! Tests of `shutdown`.
