//! Tests that read like the specification, the fault harness and the benches.
