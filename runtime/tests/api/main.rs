//! The library as a program uses it: text in, text out, streams, constraints, plans in memory, the examples.

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
mod memory;
