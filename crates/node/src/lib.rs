//! The machine's daemon: the fenced relay, drivers, leases and moves.
