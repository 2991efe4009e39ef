//! Tests of `timeouts`.
