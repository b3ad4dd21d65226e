//! jambac, the compiler: subcommands as functions, and [`build`](mod@build), the pipeline they share.

pub mod build;
pub mod doctor;
pub mod fit;
pub mod graph;
pub mod inspect;
pub mod losses;
pub mod manifest;
pub mod manual;
pub mod opt;
pub mod report;
pub mod source;
