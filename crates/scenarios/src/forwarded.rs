//! `landfast forward` as its user runs it: a port of this machine that leads into an instance.

use std::net::SocketAddr;

use tokio::process::Child;

use crate::instance::Instance;
use crate::user::User;

/// A forwarded port. It ends with the value.
#[derive(Debug)]
pub struct Forwarded {
    /// Where it listens.
    pub address: SocketAddr,
    /// Ends with the value.
    pub(crate) _child: Child,
}

impl Forwarded {
    /// Starts `landfast forward` to a place in an instance, and waits until it listens.
    ///
    /// # Panics
    ///
    /// It does not.
    pub async fn start(instance: &Instance, place: &str) -> Self {
        User::of(&instance.operator, &[instance.operator.address]).forwards(instance, place).await
    }
}
