//! The store contract and its stores, the scheduler, the public API and access tokens.

pub mod api_key;
pub mod cell;
pub mod records;
pub mod store;
pub mod token;
