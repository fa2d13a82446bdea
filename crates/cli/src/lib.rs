//! The `landfast` binary: one subcommand per role, and the verbs people use.
