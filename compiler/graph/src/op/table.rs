//! The macro that makes [`Op`](super::Op) and all that follows from it out of one table.

/// One line per op: `name: Variant { attribute: Type }`, with the name of the text form. Sources have a name and a type.
macro_rules! ops {
    (
        sources { $( $(#[$source_doc:meta])* $source:ident: $Source:ident, )* }
        ops { $( $(#[$doc:meta])* $name:ident: $Op:ident $( { $( $field:ident: $ty:ty ),* } )?, )* }
    ) => {
        /// An op and its attributes; the module's table has operands, results and meaning.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Op {
            $( $(#[$source_doc])* $Source { name: String, ty: Type }, )*
            $( $(#[$doc])* $Op $( { $( $field: $ty ),* } )?, )*
        }

        impl Op {
            /// The name in the text form, and in diagnostics.
            pub fn name(&self) -> &'static str {
                match self {
                    $( Op::$Source { .. } => stringify!($source), )*
                    $( Op::$Op { .. } => stringify!($name), )*
                }
            }

            /// True of `input`, `parameter` and `state`, which have no operands.
            pub fn is_source(&self) -> bool {
                self.source_name().is_some()
            }

            /// The name of an `input`, a `parameter` or a `state`.
            pub fn source_name(&self) -> Option<&str> {
                match self {
                    $( Op::$Source { name, .. } => Some(name), )*
                    _ => None,
                }
            }

            /// Attributes in the order in which they are printed.
            pub fn attributes(&self) -> Vec<(&'static str, AttributeValue)> {
                #[allow(unused_mut)]
                let mut written = Vec::new();
                match self {
                    $( Op::$Source { .. } => {} )*
                    $( Op::$Op $( { $( $field ),* } )? => { $( $( $field.write(stringify!($field), &mut written); )* )? } )*
                }
                written
            }

            /// True of the names of sources.
            pub(crate) fn is_source_name(name: &str) -> bool {
                [ $( stringify!($source) ),* ].contains(&name)
            }

            /// The source of this op name.
            pub(crate) fn source(op: &str, name: String, ty: Type) -> Option<Op> {
                match op {
                    $( stringify!($source) => Some(Op::$Source { name, ty }), )*
                    _ => None,
                }
            }

            /// The op of this name, with attributes from the reader; `None` if there is no such op.
            pub(crate) fn read<R: Reader>(op: &str, reader: &mut R) -> Result<Option<Op>, R::Error> {
                Ok(Some(match op {
                    $( stringify!($name) => Op::$Op $( { $( $field: Attribute::read(stringify!($field), reader)? ),* } )?, )*
                    _ => return Ok(None),
                }))
            }

            /// Any op that is not a source, for random graphs.
            pub(crate) fn sample(choose: Choose<'_>) -> Op {
                const OPS: &[fn(Choose<'_>) -> Op] =
                    &[ $( |_choose| Op::$Op $( { $( $field: Attribute::sample(&mut *_choose) ),* } )?, )* ];
                OPS[choose(OPS.len())](choose)
            }
        }
    };
}
