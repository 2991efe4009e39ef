//! Tests of `resolving`.
