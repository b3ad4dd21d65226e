//! What the programs `jamba` and `jambac` share: parsing of the command line, messages on stderr, signals, options of output files,
//! manual pages, lists of tokens, and the checks of the machine.

pub mod check;
pub mod files;
pub mod pages;
pub mod say;
pub mod signals;
pub mod tokens;
pub mod usage;
