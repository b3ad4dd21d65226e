//! Sizes of the family, as the model cards have them.

use std::path::Path;

use super::*;

/// The config of a model file of this crate.
fn family(model: &str) -> JambaConfig {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(model).join("config.json");
    JambaConfig::read(&path).unwrap()
}

/// `51.6 B` as the model cards have it.
fn billions(n: usize, decimals: usize) -> String {
    format!("{:.decimals$} B", n as f64 / 1e9)
}

#[test]
fn jamba_3b() {
    let config = family("jamba-3b");
    assert_eq!(billions(n_parameters(&config), 2), "3.03 B");
    assert_eq!(n_active_parameters(&config), n_parameters(&config));
    // 2 attention layers · 2 · 1 KV head · 128 · 2 bytes
    assert_eq!(kv_bytes_per_token(&config, DType::Bf16), 1024);
    // 26 Mamba layers · 5120 · (3 + 16) · 4 bytes = 9.65 MiB
    assert_eq!(state_bytes_per_sequence(&config), 26 * 5120 * 19 * 4);
}

#[test]
fn jamba_mini() {
    let config = family("jamba-mini");
    assert_eq!(billions(n_parameters(&config), 1), "51.6 B");
    assert_eq!(billions(n_active_parameters(&config), 1), "12.1 B");
    // 4 attention layers · 2 · 8 KV heads · 128 · 2 bytes
    assert_eq!(kv_bytes_per_token(&config, DType::Bf16), 16 << 10);
    assert_eq!(kv_bytes_per_token(&config, DType::F32), 32 << 10);
    // 28 Mamba layers · 8192 · (3 + 16) · 4 bytes = 16.6 MiB
    assert_eq!(state_bytes_per_sequence(&config), 28 * 8192 * 19 * 4);
}

#[test]
fn jamba_large() {
    let config = family("jamba-large");
    assert_eq!(billions(n_parameters(&config), 2), "398.56 B");
    assert_eq!(billions(n_active_parameters(&config), 2), "94.15 B");
    // 9 attention layers · 2 · 8 KV heads · 128 · 2 bytes
    assert_eq!(kv_bytes_per_token(&config, DType::Bf16), 36 << 10);
    // 63 Mamba layers · 16384 · (3 + 16) · 4 bytes = 74.8 MiB
    assert_eq!(state_bytes_per_sequence(&config), 63 * 16384 * 19 * 4);
}
