//! CDP connections: from a client's upgrade to a WebSocket with the browser of the moment, and to the truth about its end.

mod line;
mod open;
mod socket;

pub(crate) use open::{Endpoint, open};
