//! The process beside the instance: it owns the processes and what they have said.
