//! IO that roles share: links, dialling, the byte pump and WebSocket framing.
