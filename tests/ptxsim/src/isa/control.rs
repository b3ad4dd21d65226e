//! Branches and exits. [`crate::exec::warp`] executes them.

use crate::decode::{Call, Decoder};
use crate::fault::ParseError;
use crate::parse::Operand;
use crate::registers::Slot;

#[derive(Debug)]
pub(crate) enum Control {
    Branch {
        target: u32,
    },
    /// A branch to an entry of a table.
    Table {
        index: Slot,
        targets: Box<[u32]>,
    },
    Exit,
    Trap,
    Nop,
}

pub(super) fn decode(d: &mut Decoder, call: &Call) -> Result<Control, ParseError> {
    let word = |d: &Decoder, operand: &Operand| match operand {
        Operand::Word(name) => Ok(name.clone()),
        other => d.fail(format!("{other:?} is no label")),
    };
    match call.parts[0] {
        "bra" => {
            d.count(call, 1..=1)?;
            let label = word(d, &call.operands[0])?;
            Ok(Control::Branch { target: d.label(&label)? })
        }
        "brx" => {
            d.count(call, 2..=2)?;
            let table = word(d, &call.operands[1])?;
            Ok(Control::Table { index: d.r(&call.operands[0])?, targets: d.targets(&table)?.into() })
        }
        "ret" | "exit" => Ok(Control::Exit),
        "trap" => Ok(Control::Trap),
        _ => Ok(Control::Nop),
    }
}
