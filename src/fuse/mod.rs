//! The kernel adapter: reads requests from `/dev/fuse`, calls the file system, replies.
//!
//! fuser mounts and completes the INIT handshake ([`handshake`]); from then on the descriptor is
//! served here. A request is read by a [`worker`] whose turn it is ([`crew`]), decoded ([`decode`]), carried out
//! ([`dispatch`], [`names`], [`files`]) and answered ([`encode`], [`reply`]). What may wait long is
//! put into a [`lane`]. What the kernel may cache is in [`policy`]; what it is told when that
//! changes, in [`notify`]; what happens to requests that a dead daemon had, in [`resent`] and [`in_flight`]; how a full volume is told, in [`room`]; how its dirty pages are brought in before a snapshot, in [`flush`].
//!
//! Invariants:
//! 1. Every request that wants a reply gets one, whatever its handler does ([`reply`]).
//! 2. A worker never waits for another request of the same mount ([`worker`], [`lane`]).
//! 3. Bytes from the kernel never cause a panic ([`cursor`], [`decode`]).
//! 4. Node ids and handles are functions of what they name, and nothing here outlives the session:
//!    another daemon could serve on from the same descriptor.
//!
//! A crash at any point loses no acknowledged operation: a reply goes out after the operation is
//! journaled.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod abi;
mod backing;
mod batch;
mod credentials;
mod crew;
mod cursor;
mod decode;
mod device;
mod dispatch;
mod encode;
mod files;
mod flush;
#[doc(hidden)]
pub mod fuzzing;
mod handshake;
mod helper;
mod in_flight;
mod lane;
mod mount;
mod names;
mod notify;
mod patience;
mod policy;
mod privileges;
mod refuse;
mod reply;
mod resent;
mod room;
mod snapshot_dirs;
mod sys;
mod syscall;
mod worker;
mod write_back;

pub use helper::{FLUSH_HELPER, flush_helper};
pub use mount::{DEFAULT_WORKERS, Mount, MountError, MountOptions};
pub use refuse::refuse_everything;
pub use room::Neighbours;
