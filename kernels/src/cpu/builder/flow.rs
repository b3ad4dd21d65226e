//! Loops and branches. Loop-carried values and branch results are a [`Carried`]: nothing, a value, an array or a vector of
//! values.

use super::{Builder, Num, Operand, Type, Value, argument_value, assert_types};
use melior::ir::{Block, Region};

/// Loop-carried values, or the results of a branch.
pub trait Carried {
    fn values(self) -> Vec<Value>;

    /// Rebuilds `Self` from the same number of values.
    fn of(values: &[Value]) -> Self;
}

impl Carried for () {
    fn values(self) -> Vec<Value> {
        Vec::new()
    }

    fn of(_: &[Value]) {}
}

impl Carried for Value {
    fn values(self) -> Vec<Value> {
        vec![self]
    }

    fn of(values: &[Value]) -> Value {
        values[0]
    }
}

impl<const N: usize> Carried for [Value; N] {
    fn values(self) -> Vec<Value> {
        self.to_vec()
    }

    fn of(values: &[Value]) -> [Value; N] {
        std::array::from_fn(|slot| values[slot])
    }
}

impl Carried for Vec<Value> {
    fn values(self) -> Vec<Value> {
        self
    }

    fn of(values: &[Value]) -> Vec<Value> {
        values.to_vec()
    }
}

impl Builder<'_> {
    /// `for i in (start..end).step_by(step)` without carried values. Bounds are indices or i32; two number literals become
    /// indices on CPUs and i32 on GPUs.
    #[track_caller]
    pub fn for_each(&self, start: impl Operand, end: impl Operand, step: usize, body: impl FnOnce(Value)) {
        self.for_range(start, end, step, (), |i, ()| body(i));
    }

    /// `for i in (start..end).step_by(step)` with carried values: the body receives them and returns the next ones.
    #[track_caller]
    pub fn for_range<C: Carried>(
        &self,
        start: impl Operand,
        end: impl Operand,
        step: usize,
        init: C,
        body: impl FnOnce(Value, C) -> C,
    ) -> C {
        let location = self.here();
        let index = start.known().or(end.known()).unwrap_or(self.machine().count());
        let (start, end, init) = (start.value(index), end.value(index), init.values());
        let counts = [Num::Index, Num::I32].map(Type::scalar);
        assert!(counts.contains(&index) && end.ty == index, "for_range from {} to {}", start.ty, end.ty);
        let types: Vec<Type> = init.iter().map(|value| value.ty).collect();
        let step = step.value(index);

        let block_types: Vec<_> = [index].iter().chain(&types).map(|ty| (ty.mlir(self.context), location)).collect();
        let (region, block) = self.region(Block::new(&block_types));
        let carried: Vec<Value> =
            types.iter().enumerate().map(|(slot, &ty)| self.define(argument_value(block, slot + 1), ty)).collect();
        let i = self.define(argument_value(block, 0), index);
        self.within(block, || {
            let next = body(i, C::of(&carried)).values();
            assert_types("for_range", &types, &next);
            self.op("scf.yield", &next, &[]);
        });

        let operands: Vec<Value> = [start, end, step].iter().chain(&init).copied().collect();
        let operation = self.op_with_regions("scf.for", &operands, &types, vec![region], location);
        C::of(&self.results(operation, &types))
    }

    /// [`for_range`](Self::for_range) with a vector of carried values, which the body receives as a slice.
    #[track_caller]
    pub fn for_range_vec(
        &self,
        start: impl Operand,
        end: impl Operand,
        step: usize,
        init: &[Value],
        body: impl FnOnce(Value, &[Value]) -> Vec<Value>,
    ) -> Vec<Value> {
        self.for_range(start, end, step, init.to_vec(), |i, carried| body(i, &carried))
    }

    /// Runs `then` if `condition` is true.
    #[track_caller]
    pub fn if_(&self, condition: Value, then: impl FnOnce()) {
        let location = self.here();
        assert_eq!(condition.ty, Type::scalar(Num::I1), "the condition of an if");
        let (region, block) = self.region(Block::new(&[]));
        self.within(block, || {
            then();
            self.op("scf.yield", &[], &[]);
        });
        self.op_with_regions("scf.if", &[condition], &[], vec![region, Region::new()], location);
    }

    /// Runs one of two bodies, whose results have the same types.
    #[track_caller]
    pub fn if_else<C: Carried>(&self, condition: Value, then: impl FnOnce() -> C, otherwise: impl FnOnce() -> C) -> C {
        let location = self.here();
        assert_eq!(condition.ty, Type::scalar(Num::I1), "the condition of an if");
        let (then_region, block) = self.region(Block::new(&[]));
        let mut types = Vec::new();
        self.within(block, || {
            let results = then().values();
            types = results.iter().map(|value| value.ty).collect();
            self.op("scf.yield", &results, &[]);
        });
        let (else_region, block) = self.region(Block::new(&[]));
        self.within(block, || {
            let results = otherwise().values();
            assert_types("if_else", &types, &results);
            self.op("scf.yield", &results, &[]);
        });
        let operation = self.op_with_regions("scf.if", &[condition], &types, vec![then_region, else_region], location);
        C::of(&self.results(operation, &types))
    }

    /// `while condition(carried) { carried = body(carried) }`; `condition` returns an i1.
    #[track_caller]
    pub fn while_<C: Carried>(&self, init: C, condition: impl FnOnce(C) -> Value, body: impl FnOnce(C) -> C) -> C {
        let location = super::caller(self.context);
        let init = init.values();
        let types: Vec<Type> = init.iter().map(|value| value.ty).collect();
        let block_types: Vec<_> = types.iter().map(|ty| (ty.mlir(self.context), location)).collect();
        let carried = |block| -> Vec<Value> {
            types.iter().enumerate().map(|(slot, &ty)| self.define(argument_value(block, slot), ty)).collect()
        };
        let (before, block) = self.region(Block::new(&block_types));
        self.within(block, || {
            let values = carried(block);
            let condition = condition(C::of(&values));
            assert_eq!(condition.ty, Type::scalar(Num::I1), "the condition of a while");
            let operands: Vec<Value> = [condition].into_iter().chain(values).collect();
            self.op("scf.condition", &operands, &[]);
        });
        let (after, block) = self.region(Block::new(&block_types));
        self.within(block, || {
            let next = body(C::of(&carried(block))).values();
            assert_types("while_", &types, &next);
            self.op("scf.yield", &next, &[]);
        });
        let operation = self.op_with_regions("scf.while", &init, &types, vec![before, after], location);
        C::of(&self.results(operation, &types))
    }

    /// [`while_`](Self::while_) with a vector of carried values, which the bodies receive as a slice.
    #[track_caller]
    pub fn while_vec(
        &self,
        init: &[Value],
        condition: impl FnOnce(&[Value]) -> Value,
        body: impl FnOnce(&[Value]) -> Vec<Value>,
    ) -> Vec<Value> {
        self.while_(init.to_vec(), |carried| condition(&carried), |carried| body(&carried))
    }
}
