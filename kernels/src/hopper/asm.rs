//! Inline PTX. Operand and result types determine constraints, so that an instruction is one line of text plus its
//! operands.
//!
//! In the text, `$0 … ` are the results followed by the operands. Constraints follow from types: i32, i1 (as 0 or 1) and
//! shared addresses use 32-bit registers, i16 and bf16 16-bit ones, i64, indices and global addresses 64-bit ones, f32 and
//! f64 float ones. Braces of vectors and scopes are written as in PTX. Registers must be declared inside a scope (`{ .reg
//! .pred p; … }`), because the optimizer may duplicate the text.

use super::Builder;
use crate::cpu::builder::{Num, Type, Value};
use melior::dialect::llvm;
use melior::ir::attribute::{DenseI64ArrayAttribute, StringAttribute};
use melior::ir::{Attribute, operation::OperationRef};

/// Optimizations that are allowed for the instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Results depend only on operands: the instruction may be removed, moved and deduplicated.
    Pure,
    /// The instruction is convergent, and no load or store moves across it.
    Memory,
}

impl<'m> Builder<'m> {
    /// An instruction with results of the given types.
    #[track_caller]
    pub fn asm(&self, effect: Effect, text: &str, operands: &[Value], results: &[Type]) -> Vec<Value> {
        self.asm_tied(effect, text, &[], operands, results)
    }

    /// An instruction with one result.
    #[track_caller]
    pub fn asm1(&self, effect: Effect, text: &str, operands: &[Value], result: Num) -> Value {
        self.asm(effect, text, operands, &[Type::scalar(result)])[0]
    }

    /// An instruction with effects only.
    #[track_caller]
    pub fn asm0(&self, text: &str, operands: &[Value]) {
        self.asm(Effect::Memory, text, operands, &[]);
    }

    /// An instruction that updates registers in place. Its results are the updated `tied` registers, then `results`. In the
    /// text, `$0 …` are the tied registers, then `results`; operand numbers start at twice the number of tied registers
    /// plus that of results.
    #[track_caller]
    pub fn asm_tied(
        &self,
        effect: Effect,
        text: &str,
        tied: &[Value],
        operands: &[Value],
        results: &[Type],
    ) -> Vec<Value> {
        let types: Vec<Type> = tied.iter().map(|value| value.ty).chain(results.iter().copied()).collect();
        let operands: Vec<Value> = operands.iter().map(|&operand| self.register(operand)).collect();
        let mut constraints: Vec<String> = types.iter().map(|&ty| format!("={}", class(ty))).collect();
        constraints.extend((0..tied.len()).map(|number| number.to_string()));
        constraints.extend(operands.iter().map(|operand| class(operand.ty).to_owned()));
        if effect == Effect::Memory {
            constraints.push("~{memory}".into());
        }
        let mut attributes: Vec<(&str, Attribute)> = vec![
            ("asm_string", StringAttribute::new(self.context, text).into()),
            ("constraints", StringAttribute::new(self.context, &constraints.join(",")).into()),
        ];
        if effect == Effect::Memory {
            attributes.push(("has_side_effects", Attribute::unit(self.context)));
        }
        let fields: Vec<_> = types.iter().map(|ty| ty.mlir(self.context)).collect();
        let result = match fields.len() {
            0 | 1 => fields.clone(),
            _ => vec![llvm::r#type::r#struct(self.context, &fields, false)],
        };
        let inputs: Vec<Value> = tied.iter().chain(&operands).copied().collect();
        let operation = self.op_with_results("llvm.inline_asm", &inputs, &result, &attributes);
        self.fields(operation, &types)
    }

    /// An LLVM intrinsic with one result.
    #[track_caller]
    pub fn intrinsic(&self, name: &str, operands: &[Value], result: Num) -> Value {
        let name = StringAttribute::new(self.context, name).into();
        self.op1("llvm.call_intrinsic", operands, Type::scalar(result), &[("intrin", name)])
    }

    /// An LLVM intrinsic with several results.
    #[track_caller]
    pub fn intrinsic_all(&self, name: &str, operands: &[Value], results: &[Type]) -> Vec<Value> {
        let name = StringAttribute::new(self.context, name).into();
        let fields: Vec<_> = results.iter().map(|ty| ty.mlir(self.context)).collect();
        let result = llvm::r#type::r#struct(self.context, &fields, false);
        let operation = self.op_with_results("llvm.call_intrinsic", operands, &[result], &[("intrin", name)]);
        self.fields(operation, results)
    }

    /// An LLVM intrinsic without results.
    #[track_caller]
    pub fn intrinsic0(&self, name: &str, operands: &[Value]) {
        let name = StringAttribute::new(self.context, name).into();
        self.op("llvm.call_intrinsic", operands, &[("intrin", name)]);
    }

    /// The results of an operation, unpacked from a struct if there are several.
    fn fields(&self, operation: OperationRef<'m, 'm>, types: &[Type]) -> Vec<Value> {
        match types {
            [] => vec![],
            &[ty] => vec![self.result(operation, 0, ty)],
            _ => {
                let fields = self.result(operation, 0, types[0]);
                let field = |(number, &ty): (usize, &Type)| {
                    let position = DenseI64ArrayAttribute::new(self.context, &[number as i64]).into();
                    self.op1("llvm.extractvalue", &[fields], ty, &[("position", position)])
                };
                types.iter().enumerate().map(field).collect()
            }
        }
    }

    /// A value in the type of the register that holds it.
    #[track_caller]
    fn register(&self, value: Value) -> Value {
        assert_eq!(value.ty.lanes, None, "inline PTX takes scalars, not {}", value.ty);
        match value.ty.num {
            Num::Index => self.op1("arith.index_cast", &[value], Type::scalar(Num::I64), &[]),
            Num::I1 => value.to_i32(),
            _ => value,
        }
    }
}

#[track_caller]
fn class(ty: Type) -> &'static str {
    match ty.num {
        Num::F32 => "f",
        Num::F64 => "d",
        Num::I32 | Num::Shared => "r",
        Num::I64 | Num::Global | Num::Map => "l",
        Num::I16 | Num::Bf16 => "h",
        _ => panic!("inline PTX takes no {ty}"),
    }
}
