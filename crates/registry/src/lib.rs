//! The store contract and its stores, the scheduler, the public API and access tokens.
