//! Tests of `python_servers`.
