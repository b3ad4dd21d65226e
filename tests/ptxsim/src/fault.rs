//! Errors: text that is not simulated, and faults of programs.

/// An error of the parser or the decoder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("PTX line {line}: {what}")]
pub struct ParseError {
    /// Line in the text, counted from one.
    pub line: u32,
    /// The unexpected text, and what was expected.
    pub what: String,
}

/// The class of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FaultKind {
    /// Outside every allocation, or beyond shared memory.
    OutOfBounds,
    /// An address that is not a multiple of the access size.
    Misaligned,
    /// Two unordered accesses to shared memory, at least one of them a write.
    Race,
    /// No warp can continue.
    Deadlock,
    /// A branch, a predicate or an address depends on unwritten memory or registers.
    Poison,
    /// An access to registers of a `wgmma` before `wgmma.wait_group`.
    InFlight,
    /// `wgmma` on registers accessed since the last `wgmma.fence`.
    MissingFence,
    /// The async proxy uses shared memory written by ordinary stores, without `fence.proxy.async`, or a tensor map in global
    /// memory without `fence.proxy.tensormap`.
    MissingProxyFence,
    /// A load through the non-coherent path (`ld.global.nc`) of bytes that its grid has stored.
    NonCoherent,
    /// Part of a warp executes an instruction for the whole warp.
    Divergence,
    /// A violated rule of `bar` or `mbarrier`.
    Barrier,
    /// An unknown kernel, or a launch outside its bounds.
    Launch,
    /// An invalid operand, descriptor, tensor map or register count.
    Operand,
    /// A block ends with copies or `wgmma` without a wait.
    Unfinished,
    /// The kernel executed `trap`.
    Trap,
    /// More instructions than `Options::budget`.
    Budget,
}

/// An error of a launch or of an access by the host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.describe())]
pub struct Fault {
    pub kind: FaultKind,
    /// Name of the kernel; empty for an access by the host.
    pub kernel: String,
    pub block: [u32; 3],
    /// Index of the responsible thread in the block, x fastest.
    pub thread: Option<u32>,
    /// Line of the PTX text, counted from one; zero if no instruction is responsible.
    pub line: u32,
    /// The instruction in that line.
    pub instruction: String,
    /// Source file and line from `.loc`: `scan.mlir:12`.
    pub origin: Option<Box<str>>,
    /// Description, with addresses and values.
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

/// A fault of a lane or a warp, before its thread and instruction are known.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub kind: FaultKind,
    pub lane: Option<u32>,
    pub what: String,
    /// The thread and instruction that started asynchronous work; by default the current ones.
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

pub(crate) type Run<T = ()> = Result<T, Box<Trouble>>;
