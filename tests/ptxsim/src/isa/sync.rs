//! Barriers of a block, fences, hints.

use crate::decode::{Call, Decoder};
use crate::exec::barrier::CLUSTER_BARRIER;
use crate::fault::ParseError;
use crate::isa::access::Address;
use crate::parse::Operand;
use crate::registers::Slot;

#[derive(Debug)]
pub(crate) enum Sync {
    /// Arrival at a named barrier; with `wait`, also the wait for it.
    Barrier { id: Slot, threads: Option<Slot>, wait: bool },
    /// `bar.warp.sync`
    Warp { members: Slot },
    /// `fence.proxy.async`
    ProxyFence,
    /// `fence.proxy.tensormap::generic.acquire` of the map at an address.
    AcquireMap { map: Address },
    /// `fence.mbarrier_init`
    InitFence,
    /// No effect: other fences, hints, `griddepcontrol`.
    Nothing,
    /// `setmaxnreg`
    MaxRegisters,
}

pub(super) fn decode(d: &mut Decoder, call: &Call) -> Result<Sync, ParseError> {
    match call.parts[..] {
        ["bar", "warp", "sync"] => Ok(Sync::Warp { members: d.r(d.at(call, 0)?)? }),
        ["barrier", "cluster", "arrive", ..] => Ok(Sync::Nothing),
        ["barrier", "cluster", "wait", ..] => {
            Ok(Sync::Barrier { id: d.word(CLUSTER_BARRIER), threads: None, wait: true })
        }
        ["bar" | "barrier", ..] if call.has("red") || call.has("cluster") => d.unknown(),
        ["bar" | "barrier", ..] => {
            d.count(call, 1..=2)?;
            let threads = match call.operands.get(1) {
                Some(operand) => Some(d.r(operand)?),
                None => None,
            };
            let wait = !call.has("arrive");
            if !wait && threads.is_none() || wait && !call.has("sync") {
                return d.unknown();
            }
            Ok(Sync::Barrier { id: d.r(&call.operands[0])?, threads, wait })
        }
        ["fence", "proxy", "async", ..] => Ok(Sync::ProxyFence),
        ["fence", "proxy", "tensormap::generic", "acquire", _] => {
            let bytes = d.immediate(d.at(call, 1)?)?;
            if bytes != 128 {
                return d.fail(format!("a tensor map of {bytes} bytes; 128 are expected"));
            }
            Ok(Sync::AcquireMap { map: Address::decode(d, d.at(call, 0)?)? })
        }
        ["fence", "mbarrier_init", ..] => Ok(Sync::InitFence),
        ["membar" | "fence", ..] => Ok(Sync::Nothing),
        ["griddepcontrol", "wait" | "launch_dependents"] => Ok(Sync::Nothing),
        ["setmaxnreg", "inc" | "dec", "sync", "aligned", "u32"] => {
            let n = d.immediate(d.at(call, 0)?)?;
            if !(24..=256).contains(&n) || n % 8 != 0 {
                return d.fail(format!("{n} registers; a multiple of 8 in 24..=256 is expected"));
            }
            Ok(Sync::MaxRegisters)
        }
        ["prefetch" | "prefetchu", ..] => match d.at(call, 0)? {
            Operand::Address { .. } => Ok(Sync::Nothing),
            other => d.fail(format!("{other:?} is no address")),
        },
        _ => d.unknown(),
    }
}
