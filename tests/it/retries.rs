//! Tests of `retries`.
