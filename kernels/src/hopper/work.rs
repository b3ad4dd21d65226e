//! A work list that is the same in all blocks: groups of pieces, in order. Block i takes pieces i, i + grid, and so on.
//!
//! The number of pieces in a group is computed on the device, from the length of a sequence or the rows of an expert. A
//! group may be empty.

use super::Builder;
use super::ring::Slot;
use crate::cpu::builder::Value;

/// Number of pieces in a group, by group number; all i32.
type Pieces<'a> = Box<dyn Fn(Value) -> Value + 'a>;

pub(crate) struct WorkList<'a> {
    /// Number of groups; `None` if there is only group 0.
    n_groups: Option<Value>,
    pieces: Pieces<'a>,
}

/// A position in the list; i32.
#[derive(Clone, Copy)]
pub(crate) struct At {
    /// Number of the piece in the list.
    pub(crate) number: Value,
    pub(crate) group: Value,
    /// Number of the group's first piece.
    pub(crate) first: Value,
}

impl At {
    /// Rebuilds a position from the first three loop-carried values.
    pub(crate) fn of(carried: &[Value]) -> At {
        At { number: carried[0], group: carried[1], first: carried[2] }
    }

    pub(crate) fn values(self) -> [Value; 3] {
        [self.number, self.group, self.first]
    }

    /// Number of the piece in its group.
    #[track_caller]
    pub(crate) fn in_group(self) -> Value {
        self.number - self.first
    }
}

impl<'a> WorkList<'a> {
    /// A list with one group.
    pub(crate) fn of_one(pieces: impl Fn() -> Value + 'a) -> Self {
        WorkList { n_groups: None, pieces: Box::new(move |_| pieces()) }
    }

    /// A list with several groups; `pieces` returns the size of each.
    pub(crate) fn of_groups(n_groups: Value, pieces: impl Fn(Value) -> Value + 'a) -> Self {
        WorkList { n_groups: Some(n_groups), pieces: Box::new(pieces) }
    }

    /// Runs `body(at, slot)` for each piece of this block, carrying a ring slot.
    #[track_caller]
    pub(crate) fn for_each(&self, b: &Builder, slot: Slot, body: impl FnOnce(At, Slot) -> Slot) {
        let run = || {
            let init = [&self.first(b).values()[..], &slot.values()].concat();
            b.while_vec(
                &init,
                |carried| self.exists(At::of(carried)),
                |carried| {
                    let at = At::of(carried);
                    let slot = body(at, Slot::of(&carried[3..]));
                    [&self.next(b, at).values()[..], &slot.values()].concat()
                },
            );
        };
        match self.n_groups {
            Some(n_groups) => b.if_(n_groups.gt(0), run),
            None => run(),
        }
    }

    /// This block's first piece, which may not exist. There must be at least one group.
    #[track_caller]
    pub(crate) fn first(&self, b: &Builder) -> At {
        self.settle(b, At { number: b.block(), group: b.i32(0), first: b.i32(0) })
    }

    /// This block's next piece, which may not exist.
    #[track_caller]
    pub(crate) fn next(&self, b: &Builder, at: At) -> At {
        self.settle(b, At { number: at.number + b.n_blocks(), ..at })
    }

    #[track_caller]
    pub(crate) fn exists(&self, at: At) -> Value {
        match self.n_groups {
            None => at.number.lt((self.pieces)(at.group)),
            Some(n_groups) => at.group.lt(n_groups),
        }
    }

    /// `at` if that piece exists, else `other`.
    #[track_caller]
    pub(crate) fn or(&self, at: At, other: At) -> At {
        let exists = self.exists(at);
        let (at, other) = (at.values(), other.values());
        At::of(&[0, 1, 2].map(|i| exists.select(at[i], other[i])))
    }

    /// Advances to the group of piece `at.number`, or past the last group.
    #[track_caller]
    fn settle(&self, b: &Builder, at: At) -> At {
        let Some(n_groups) = self.n_groups else { return at };
        let last = n_groups - 1;
        let end = |group: Value, first: Value| first + (self.pieces)(group);
        let [group, first] = b.while_(
            [at.group, at.first],
            |[group, first]| {
                let is_behind = end(group.min(last), first).le(at.number);
                is_behind & group.le(last)
            },
            |[group, first]| [group + 1, end(group, first)],
        );
        At { group, first, ..at }
    }
}
