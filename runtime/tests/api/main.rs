//! The public API: text, streams, constraints, plans in memory, and the examples.

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../fixture/mod.rs"]
mod fixture;

mod batch;
mod chat;
mod committed;
mod constrain;
mod examples;
mod features;
mod generate;
mod injection;
mod jinja;
mod memory;
mod sentencepiece;
