//! Layout of the states that a sequence keeps between steps.
//!
//! The conv and SSM state of a sequence is in its slot, with one region per layer. Keys and values are in pages of
//! [`jamba_plan::format::KV_PAGE_TOKENS`] tokens, with one region per attention layer in each page. Regions are in the order of
//! the model. [`jamba_plan::format::Memory::state_slot`] and [`jamba_plan::format::Memory::kv_page`] are the distances between
//! slots and pages.

use std::collections::BTreeMap;

use jamba_plan::format::EntryKind;
use jambac_graph::{Graph, Op, ValueId};
use jambac_kernels::kernel::{Elem, Source};
use jambac_kernels::node::{Node, SelectError};

use crate::ScheduleError;
use crate::select::{Extents, launches};
use crate::weights::FormatRules;

/// The pool that contains a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pool {
    /// One slot per sequence.
    Slots,
    /// Pages of keys and values.
    Pages,
}

/// The region of one state in every slot or page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRegion {
    /// Name of the state in the graph.
    pub name: String,
    pub pool: Pool,
    /// Offset in bytes from the start of the slot or page.
    pub offset: u64,
    pub bytes: u64,
    pub elem: Elem,
}

/// The regions of all states of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StateLayout {
    pub(crate) regions: Vec<StateRegion>,
    /// Distance between slots in bytes.
    pub(crate) slot_bytes: u64,
    /// Distance between pages in bytes.
    pub(crate) page_bytes: u64,
}

impl StateLayout {
    /// Lays out the states of a verified graph. The kernels that update the states determine their sizes.
    pub(crate) fn of(graph: &Graph, rules: &FormatRules) -> Result<StateLayout, ScheduleError> {
        let align = rules.kind.align_bytes();
        let mut layout = StateLayout { regions: Vec::new(), slot_bytes: 0, page_bytes: 0 };
        for node in graph.order() {
            let Op::State { name, ty } = graph.op(node) else { continue };
            let updater = graph.users(ValueId { node, result: 0 })[0].0;
            let refuse = |error: SelectError| ScheduleError::of_node(graph, updater, error);
            let view = Node::new(graph, updater, rules);
            let one = Extents { tokens: 1, sequences: 1, outputs: 1 };
            let launches = launches(&view, EntryKind::Prefill, one).map_err(refuse)?.launches;
            let mut operands = launches.iter().flat_map(|launch| &launch.operands);
            let found = operands.find_map(|operand| match operand.source {
                Source::State => Some((Pool::Slots, operand)),
                Source::Pages(_) => Some((Pool::Pages, operand)),
                _ => None,
            });
            let expected = format!("state {name} is {ty}, expected conv, SSM or KV state of fixed size");
            let (pool, operand) = found.ok_or_else(|| refuse(view.fail(expected)))?;
            let too_large = || ScheduleError::TooLarge { what: format!("state {name}") };
            let bytes = operand.bytes(|_| 1).ok_or_else(too_large)?;
            let elem = operand.param.elem().unwrap_or(Elem::F32);
            let end = match pool {
                Pool::Slots => &mut layout.slot_bytes,
                Pool::Pages => &mut layout.page_bytes,
            };
            layout.regions.push(StateRegion { name: name.clone(), pool, offset: *end, bytes, elem });
            // An empty state (a convolution with one tap) also needs an address.
            *end = end.checked_add(bytes.max(1).next_multiple_of(align)).ok_or_else(too_large)?;
        }
        Ok(layout)
    }

    /// The region of a state, by name.
    pub(crate) fn region(&self, name: &str) -> Option<&StateRegion> {
        self.regions.iter().find(|region| region.name == name)
    }

    /// Returns an error for the first state that differs between two entries.
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

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use jamba_plan::format::TargetKind;
    use jambac_graph::DType;
    use jambac_models::jamba;
    use jambac_models::tiny::Tiny;

    use super::*;

    fn of(tiny: &Tiny, kv_dtype: DType) -> StateLayout {
        let config = tiny.config().expect("a config");
        let graph = jamba::prefill(&config, &|_| DType::Bf16, &jamba::Options { kv_dtype });
        let rules = FormatRules::new(&[&graph], crate::Formats::default(), TargetKind::Cpu);
        StateLayout::of(&graph, &rules).expect("states that fit")
    }

    #[test]
    fn slots_and_pages_worked_out() {
        // Layers: Mamba, attention, Mamba. d_inner 216 is padded to 224; d_head is 12.
        let layout = of(&Tiny { layers: 3, attention: (3, 1), ..Tiny::odd() }, DType::Bf16);
        let found: Vec<_> = layout
            .regions
            .iter()
            .map(|region| (region.name.as_str(), region.pool, region.offset, region.bytes))
            .collect();
        let worked_out = [
            ("layers.0.conv", Pool::Slots, 0, 224 * (3 - 1) * 4),
            ("layers.0.ssm", Pool::Slots, 1792, 224 * 5 * 4),
            ("layers.1.kv", Pool::Pages, 0, 2 * 16 * (12 + 16) * 2),
            ("layers.2.conv", Pool::Slots, 1792 + 4480, 1792),
            ("layers.2.ssm", Pool::Slots, 1792 + 4480 + 1792, 4480),
        ];
        assert_eq!(found, worked_out);
        assert_eq!((layout.slot_bytes, layout.page_bytes), (2 * (1792 + 4480), 1792));
    }

    #[test]
    fn sizes_without_padding_are_the_models() {
        let layout = of(&Tiny::base(), DType::F32);
        let config = Tiny::base().config().expect("a config");
        assert_eq!(layout.slot_bytes, jamba::state_bytes_per_sequence(&config) as u64);
        assert_eq!(layout.page_bytes, 16 * jamba::kv_bytes_per_token(&config, DType::F32) as u64);
    }

    #[test]
    fn entries_remember_the_same() {
        let (f32, bf16) = (of(&Tiny::base(), DType::F32), of(&Tiny::base(), DType::Bf16));
        expect![[r#"
            entry decode: state layers.4.kv is 2048 bytes of bf16 at 0 of Pages, expected 4096 bytes of f32 at 0 of Pages
        "#]]
        .assert_eq(&format!("{}\n", f32.check_same(&bf16, "decode").unwrap_err()));
        let fewer = of(&Tiny { layers: 7, ..Tiny::base() }, DType::F32);
        expect!["entry decode: state layers.7.conv is absent, expected 1536 bytes of f32 at 58368 of Slots"]
            .assert_eq(&f32.check_same(&fewer, "decode").unwrap_err().to_string());
    }
}
