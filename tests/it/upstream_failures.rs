//! Tests of `upstream_failures`.
