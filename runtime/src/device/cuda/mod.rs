//! GPUs: what the runtime asks of their drivers.

pub mod driver;
