//! Where clients connect: accept, classify, forward and hold.
