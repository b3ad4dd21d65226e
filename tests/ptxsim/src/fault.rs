//! What can go wrong: text that is no PTX of ours, and programs that do what they must not.

/// Text that the parser or the decoder does not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("PTX line {line}: {what}")]
pub struct ParseError {
    /// Line in the text, counted from one.
    pub line: u32,
    /// What was found, and what was expected.
    pub what: String,
}

/// The class of a fault; what tests match on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FaultKind {
    /// Outside every allocation, or beyond shared memory.
    OutOfBounds,
    /// An address that is no multiple of the access's size.
    Misaligned,
    /// Two accesses to shared memory of which one writes, and no order between them.
    Race,
    /// Nothing can go on.
    Deadlock,
    /// A decision or an address that depends on memory or registers never written.
    Poison,
    /// Registers of a `wgmma` touched before `wgmma.wait_group`.
    InFlight,
    /// `wgmma` on registers written since the last `wgmma.fence`.
    MissingFence,
    /// Shared memory written by ordinary stores, used by the async proxy without `fence.proxy.async`.
    MissingProxyFence,
    /// An instruction for the whole warp executed by a part of it.
    Divergence,
    /// Rules of `bar` or `mbarrier` broken.
    Barrier,
    /// A launch that the kernel does not allow, or an unknown kernel.
    Launch,
    /// An operand outside what the instruction takes: a descriptor, a tensor map, a register count.
    Operand,
    /// A block ends with copies or `wgmma` that nobody waited for.
    Unfinished,
    /// The kernel ran `trap`.
    Trap,
    /// More instructions than `Options::budget`.
    Budget,
}

/// Why a launch, or an access by the host, was stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.describe())]
pub struct Fault {
    /// Its class.
    pub kind: FaultKind,
    /// The kernel; empty for an access by the host.
    pub kernel: String,
    /// The block.
    pub block: [u32; 3],
    /// Thread in the block (x fastest), where one is to blame.
    pub thread: Option<u32>,
    /// Line of the PTX text, counted from one; zero where no instruction is to blame.
    pub line: u32,
    /// That line's instruction.
    pub instruction: String,
    /// File and line that it was compiled from, where the text has `.loc`: `scan.mlir:12`.
    pub origin: Option<Box<str>>,
    /// What happened, with addresses and values.
    pub what: String,
}

impl Fault {
    fn describe(&self) -> String {
        if self.kernel.is_empty() {
            return format!("{:?}: {}", self.kind, self.what);
        }
        let thread = self.thread.map_or(String::new(), |thread| format!(", thread {thread}"));
        let [x, y, z] = self.block;
        let origin = self.origin.as_ref().map_or(String::new(), |origin| format!(", from {origin}"));
        format!(
            "{:?} in {} block ({x}, {y}, {z}){thread}, PTX line {} `{}`{origin}: {}",
            self.kind, self.kernel, self.line, self.instruction, self.what
        )
    }

    pub(crate) fn host(kind: FaultKind, what: String) -> Fault {
        Fault {
            kind,
            kernel: String::new(),
            block: [0; 3],
            thread: None,
            line: 0,
            instruction: String::new(),
            origin: None,
            what,
        }
    }
}

/// A fault before the place is known: the lane, or the warp as a whole.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub kind: FaultKind,
    pub lane: Option<u32>,
    pub what: String,
    /// The thread and instruction that started asynchronous work; else the running one is to blame.
    pub place: Option<Place>,
}

/// An instruction of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub warp: u32,
    pub lane: u32,
    pub pc: u32,
}

impl Place {
    pub fn lane(&self) -> usize {
        self.lane as usize
    }
}

impl Trouble {
    pub fn warp(kind: FaultKind, what: impl Into<String>) -> Box<Trouble> {
        Box::new(Trouble { kind, lane: None, what: what.into(), place: None })
    }

    pub fn lane(kind: FaultKind, lane: usize, what: impl Into<String>) -> Box<Trouble> {
        Box::new(Trouble { kind, lane: Some(lane as u32), what: what.into(), place: None })
    }
}

/// What executing an instruction gives.
pub(crate) type Run<T = ()> = Result<T, Box<Trouble>>;
