//! The extension module of the Python package `jambac_runtime`. The package's Python files are what users see; this module has
//! as little as they need.
//!
//! A plan is open on a thread of its own, which runs the steps and never takes the interpreter's lock ([`worker`]). Requests go
//! there as closures, and what becomes known of their answers comes back as letters ([`mailbox`]).
//!
//! - [`model`] opens plans and submits requests; [`sequence`] has sequences that outlive an answer, and snapshots.
//! - [`parts`] tells reasoning and calls apart from the text of an answer.
//! - [`server`] is the HTTP server.

mod errors;
mod mailbox;
mod model;
mod parts;
mod sequence;
mod server;
mod worker;

/// See the stubs in `_native.pyi`.
#[pyo3::pymodule]
mod _native {
    #[pymodule_export]
    use crate::errors::EngineError;
    #[pymodule_export]
    use crate::mailbox::{Mailbox, Ticket};
    #[pymodule_export]
    use crate::model::{Core, last_block, plan_texts};
    #[pymodule_export]
    use crate::parts::Parts;
    #[pymodule_export]
    use crate::sequence::{Sequence, Snapshot};
    #[pymodule_export]
    use crate::server::serve;
}
