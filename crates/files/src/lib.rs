//! What is done with files, on whichever side of a connection they are: by an agent in its instance, by the client on
//! its own machine.
//!
//! Three things are hard about files that strangers send, and are done here once. A file that is written is replaced
//! whole or not at all ([`Draft`]). A tree that comes as an archive stays below the place it is put, whatever its names
//! and links say ([`Landing`], [`Unpacker`]). And nothing is held whole in memory, neither a file, nor a directory
//! ([`list`]), nor a tree ([`Packer`]).
//!
//! Everything here blocks, in steps that take as long as a disk takes for some hundred kilobytes: who has one thread for
//! much else calls each step elsewhere.

mod change;
mod content;
mod draft;
mod fault;
mod info;
mod landing;
mod pack;
mod path;
mod unpack;

pub use change::{Moved, change_owner, make_directory, move_to, remove_directory, remove_file, remove_tree, set_mode};
pub use content::{Content, Range};
pub use draft::{Commit, Draft, is_temporary};
pub use fault::fault;
pub use info::{FileKind, Info, Page, list, stat};
pub use landing::{Landing, Links};
pub use pack::{PROBLEM_RECORD, Packer};
pub use path::{decode, encode};
pub use unpack::{Unpacked, Unpacker};

/// Bytes that are read or written in one step: what costs a disk about as long as asking another thread does.
pub const PIECE: usize = 256 * 1024;

/// The most directories that lie within each other in a tree that is packed or unpacked. Each is a descriptor.
pub const DEPTH_MAX: usize = 128;
