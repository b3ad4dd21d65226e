//! Placeholder.
pub const N_SMS: usize = 132;
