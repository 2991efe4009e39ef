//! Tests of `balancing`.
