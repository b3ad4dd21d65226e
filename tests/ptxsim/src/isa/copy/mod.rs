//! Asynchronous copies: `cp.async`, bulk and tensor copies, their groups.

mod decode;
mod issue;

use crate::registers::Slot;

use super::access::Address;

pub(super) use decode::decode;

/// Coordinates and the map they belong to.
#[derive(Debug)]
pub(crate) struct BoxAt {
    map: Address,
    at: Box<[Slot]>,
}

/// One end of a bulk copy in global memory.
#[derive(Debug)]
enum Far {
    Plain { address: Address, bytes: Slot },
    Tensor(BoxAt),
}

#[derive(Debug)]
enum What {
    /// `cp.async`: to shared, from global, bytes, bytes read.
    Piece {
        to: Address,
        from: Address,
        bytes: usize,
        read: Option<Slot>,
    },
    CommitPieces,
    WaitPieces {
        n: usize,
    },
    WaitAllPieces,
    /// `cp.async.mbarrier.arrive`: `counted` means that the barrier expects these arrivals.
    ArriveAfterPieces {
        barrier: Address,
        counted: bool,
    },
    Load {
        to: Address,
        from: Far,
        barrier: Address,
    },
    Store {
        to: Far,
        from: Address,
        add_floats: bool,
    },
    CommitStores,
    /// All kinds of waiting for bulk stores are one here: a store is done when it has read.
    WaitStores {
        n: usize,
    },
    Prefetch,
}

/// One instruction about copies.
#[derive(Debug)]
pub(crate) struct Copy(What);
