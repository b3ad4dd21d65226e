//! What a sequence remembers between steps, and where.
//!
//! Conv and SSM state of one sequence lie in its slot, a region per layer; keys and values lie in pages of
//! [`jamba_plan::format::KV_PAGE_TOKENS`] tokens, a region per attention layer in each page. Both in the order of the model.
//! Slots and pages follow each other at a distance of [`jamba_plan::format::Memory::state_slot`] and
//! [`jamba_plan::format::Memory::kv_page`].

use std::collections::BTreeMap;

use jamba_plan::format::ALIGN_BYTES;
use jambac_graph::{DType, Graph, Op, ValueId};
use jambac_kernels::kernel::{Elem, padded};
use jambac_kernels::kv_append;

use crate::ScheduleError;

/// Which pool a state lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pool {
    /// A slot per sequence.
    Slots,
    /// Pages of keys and values.
    Pages,
}

/// One state's part of every slot or page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRegion {
    /// Name of the state in the graph.
    pub name: String,
    /// Slot or page.
    pub pool: Pool,
    /// Bytes from the start of the slot or page.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// Element type.
    pub elem: Elem,
}

/// Where every state of a graph lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StateLayout {
    pub(crate) regions: Vec<StateRegion>,
    /// Bytes from one sequence's slot to the next.
    pub(crate) slot_bytes: u64,
    /// Bytes from one page to the next.
    pub(crate) page_bytes: u64,
}

impl StateLayout {
    /// Lays out the states of a verified graph whose dims are small enough to multiply.
    pub(crate) fn of(graph: &Graph) -> Result<StateLayout, ScheduleError> {
        let mut layout = StateLayout { regions: Vec::new(), slot_bytes: 0, page_bytes: 0 };
        for node in graph.order() {
            let Op::State { name, ty } = graph.op(node) else { continue };
            let dims: Vec<usize> = ty.shape.iter().filter_map(|dim| dim.fixed()).collect();
            let updater = graph.users(ValueId { node, result: 0 })[0].0;
            // Dims after the sequences: [channels, taps − 1] or [channels, d_state]; [2, KV heads, d_head] after the context.
            let (pool, elements) = match (graph.op(updater), &dims[..]) {
                (Op::KvAppend, &[2, n_kv_heads, d_head]) => (Pool::Pages, kv_append::page_elements(n_kv_heads, d_head)),
                (_, &[channels, per_channel]) => (Pool::Slots, padded(channels) * per_channel),
                _ => {
                    return Err(ScheduleError::Unsupported {
                        place: graph.node(updater).source.clone(),
                        op: graph.op(updater).name(),
                        reason: format!("state {name} is {ty}, expected conv, SSM or KV state of fixed size"),
                    });
                }
            };
            let elem = elem(ty.dtype);
            let bytes = (elements * elem.bytes()) as u64;
            let end = match pool {
                Pool::Slots => &mut layout.slot_bytes,
                Pool::Pages => &mut layout.page_bytes,
            };
            layout.regions.push(StateRegion { name: name.clone(), pool, offset: *end, bytes, elem });
            // An empty state (a convolution of one tap) has an address of its own too.
            *end = end
                .checked_add(bytes.max(1).next_multiple_of(ALIGN_BYTES))
                .ok_or_else(|| ScheduleError::TooLarge { what: format!("state {name}") })?;
        }
        Ok(layout)
    }

    /// The region of a state by name.
    pub(crate) fn region(&self, name: &str) -> Option<&StateRegion> {
        self.regions.iter().find(|region| region.name == name)
    }

    /// Complains of the first state that two entries remember differently.
    pub(crate) fn check_same(&self, other: &StateLayout, entry: &str) -> Result<(), ScheduleError> {
        let by_name = |layout: &StateLayout| -> BTreeMap<String, StateRegion> {
            layout.regions.iter().map(|region| (region.name.clone(), region.clone())).collect()
        };
        let (ours, theirs) = (by_name(self), by_name(other));
        let describe = |region: Option<&StateRegion>| match region {
            Some(StateRegion { pool, offset, bytes, elem, .. }) => {
                format!("{bytes} bytes of {} at {offset} of {pool:?}", elem.name())
            }
            None => "absent".into(),
        };
        for name in ours.keys().chain(theirs.keys()) {
            if ours.get(name) != theirs.get(name) {
                return Err(ScheduleError::Entry {
                    entry: entry.to_owned(),
                    what: format!("state {name}"),
                    found: describe(theirs.get(name)),
                    expected: describe(ours.get(name)),
                });
            }
        }
        Ok(())
    }
}

/// The stored type of a state or a value.
pub(crate) fn elem(dtype: DType) -> Elem {
    match dtype {
        DType::F32 => Elem::F32,
        DType::Bf16 => Elem::Bf16,
        DType::F16 => Elem::F16,
        DType::I32 => Elem::I32,
    }
}
