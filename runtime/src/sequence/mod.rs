//! Sequences and the state that they own.
//!
//! - [`session`] assigns state slots and KV pages to sequences and fills the step tables.
//! - [`pages`] counts the holders of each KV page.
//! - [`snapshot`] copies the state of a sequence: fork, snapshot, restore, checkpoint, rollback.
//! - [`save_point`] returns a sequence to earlier places.
//! - [`state_file`] writes snapshots to files and reads them.
//! - [`held`] counts the host memory of many snapshots.
//! - [`prefix`] caches snapshots by the tokens that they begin with; [`blocks`] names what it holds for routers.

pub(crate) mod blocks;
pub(crate) mod held;
mod pages;
pub(crate) mod prefix;
pub(crate) mod save_point;
pub(crate) mod session;
pub(crate) mod snapshot;
pub(crate) mod state_file;
