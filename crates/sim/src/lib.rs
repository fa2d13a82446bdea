//! The whole cell in one thread with a seed: faults, and checkers that know nothing of the code.
