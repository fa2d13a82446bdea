//! Randomness and new ids.

use landfast_core::id::{ConnectionId, InstanceId, KeyId, NodeId, PoolId, ProcessId, RequestId, SessionId, TokenId};

use crate::clock::unix_millis;

macro_rules! fresh {
    ($($(#[$doc:meta])* $name:ident -> $id:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name() -> $id {
            $id::new(unix_millis(), rand::random())
        }
    )*};
}

fresh! {
    /// A new instance's id.
    instance_id -> InstanceId;
    /// A new node's id.
    node_id -> NodeId;
    /// A new session's id.
    session_id -> SessionId;
    /// A new process's id.
    process_id -> ProcessId;
    /// A new access token's id.
    token_id -> TokenId;
    /// A new API key's id.
    key_id -> KeyId;
    /// A new request's id.
    request_id -> RequestId;
    /// A new id of a pool of browsers.
    pool_id -> PoolId;
    /// A new id of a connection to a browser.
    connection_id -> ConnectionId;
}

/// Random bits for a machine that wants jitter.
pub fn bits() -> u64 {
    rand::random()
}
