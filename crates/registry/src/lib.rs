//! The store contract and its stores, the scheduler, the public API and access tokens.

pub mod records;
pub mod store;
