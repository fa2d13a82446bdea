//! Real nodes with real agents over a real store.

mod adoption;
mod harness;
mod isolation;
mod lease;
mod life;
mod moves;
mod programs;
mod relay;
mod session;
mod sleep;
