//! Asynchronous copies: `cp.async`, bulk and tensor copies, their groups.

mod decode;
mod issue;

use crate::registers::Slot;

use super::access::Address;

pub(super) use decode::decode;

/// Coordinates in a tensor.
#[derive(Debug)]
pub(crate) struct BoxAt {
    map: Address,
    at: Box<[Slot]>,
}

/// The global side of a bulk copy.
#[derive(Debug)]
enum Far {
    Plain { address: Address, bytes: Slot },
    Tensor(BoxAt),
}

#[derive(Debug)]
enum What {
    /// `cp.async`: `read` of `bytes` bytes are copied, the others are zero.
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
    /// `cp.async.mbarrier.arrive`; with `.noinc` the arrivals are `counted` by the barrier's initialisation.
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
    /// With and without `.read`: a store completes when it has read its source.
    WaitStores {
        n: usize,
    },
    Prefetch,
}

#[derive(Debug)]
pub(crate) struct Copy(What);
