//! libjamba: plans from C. `include/jamba.h` is made of this crate and says what each call does.
//!
//! Nothing but three things is global: the table of handles, the counter that numbers them, and a message for each thread.
//! Every entry looks its handles up by number, so that one that was closed, or never was one, is an error and no access;
//! every entry catches panics.
#![allow(non_camel_case_types, reason = "the names are C's")]
#![allow(clippy::missing_safety_doc, reason = "the head of jamba.h says it once for all pointers")]
#![allow(clippy::too_many_arguments, reason = "C has no slices")]

mod arguments;
mod engine;
mod generate;
mod handles;
mod sampler;
mod status;
mod steps;
mod text;
