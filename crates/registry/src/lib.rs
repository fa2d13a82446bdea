//! The store contract and its stores, the scheduler, the public API and access tokens.

pub mod api;
pub mod api_key;
pub mod archive;
pub mod authority;
pub mod cell;
mod keeper;
pub mod records;
pub mod registration;
pub mod reverse;
pub mod store;
mod sweep;
pub mod token;
