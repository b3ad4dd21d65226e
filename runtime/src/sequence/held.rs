//! Host memory of many snapshots: parts that several of them share count once.

use std::collections::HashMap;
use std::sync::Arc;

use crate::Snapshot;

/// The parts of a set of snapshots.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Number of snapshots that hold each part, by its address.
    holders: HashMap<usize, usize>,
    bytes: u64,
}

impl Held {
    /// Host memory of all parts, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds a snapshot.
    pub(crate) fn add(&mut self, snapshot: &Snapshot) {
        for (address, bytes) in parts(snapshot) {
            let holders = self.holders.entry(address).or_default();
            *holders += 1;
            self.bytes += if *holders == 1 { bytes } else { 0 };
        }
    }

    /// Removes a snapshot that was added.
    pub(crate) fn remove(&mut self, snapshot: &Snapshot) {
        for (address, bytes) in parts(snapshot) {
            match self.holders.get_mut(&address) {
                Some(holders) if *holders > 1 => *holders -= 1,
                _ => {
                    self.holders.remove(&address);
                    self.bytes -= bytes;
                }
            }
        }
    }
}

/// Addresses and sizes of the parts of a snapshot. An address is unique while the part is alive; empty parts have none.
fn parts(snapshot: &Snapshot) -> impl Iterator<Item = (usize, u64)> {
    let tokens = (Arc::as_ptr(&snapshot.tokens).addr(), size_of_val(&*snapshot.tokens));
    let note = (Arc::as_ptr(&snapshot.note).addr(), snapshot.note.len());
    let next = (Arc::as_ptr(&snapshot.next).addr(), size_of_val(&*snapshot.next));
    let bytes = |part: &Arc<[u8]>| (Arc::as_ptr(part).addr(), part.len());
    let pages = snapshot.pages.iter().map(bytes);
    let all = [tokens, next, note, bytes(&snapshot.state)].into_iter().chain(pages);
    all.filter(|&(_, bytes)| bytes > 0).map(|(address, bytes)| (address, bytes as u64))
}
