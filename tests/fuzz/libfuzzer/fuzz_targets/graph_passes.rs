//! See `jambac_fuzz::graphs::graph_passes`.
#![no_main]
use jambac_fuzz::graphs;
libfuzzer_sys::fuzz_target!(init: jambac_fuzz::keep("graph_passes", &graphs::graphs()), |data: &[u8]| graphs::graph_passes(data));
