//! Tests of `connections`.
