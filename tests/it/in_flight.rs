//! Tests of `in_flight`.
