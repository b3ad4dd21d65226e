//! The models whose kernels are checked without running them: configs alone, no weights.

use std::path::Path;

use jambac_models::jamba::JambaConfig;
use jambac_models::tiny::Tiny;

/// The config of `models/NAME`.
pub fn published(name: &str) -> JambaConfig {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(name);
    JambaConfig::read(&folder.join("config.json")).expect("a config")
}

/// The dense model of `benches/peers`: the 3B's pattern scaled down. Fewer layers, the same kernels.
pub fn mid() -> JambaConfig {
    tiny_mid().config().expect("a config")
}

/// The model of `benches/peers` with experts. Fewer layers, the same kernels.
pub fn midmoe() -> JambaConfig {
    let midmoe = Tiny { ff: 1792, kv_heads: 2, experts: 8, top_k: 2, tied: false, ..tiny_mid() };
    midmoe.config().expect("a config")
}

fn tiny_mid() -> Tiny {
    Tiny {
        hidden: 768,
        ff: 2560,
        layers: 16,
        heads: 6,
        kv_heads: 1,
        attention: (8, 4),
        experts: 1,
        top_k: 1,
        dt_rank: Some(64),
        vocab: 65536,
        tied: true,
        ..Tiny::base()
    }
}
