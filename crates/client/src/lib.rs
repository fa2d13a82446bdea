//! The Rust client: instances, processes and terminals that resume.
