//! Tests of `responses`.
