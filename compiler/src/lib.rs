//! jambac, the compiler: one module per subcommand, and [`mod@compile`], the pipeline they share.

#![allow(missing_docs)] // only the binary and the tests use this library

pub mod bisect;
pub mod build;
pub mod cached;
pub mod calibrate;
pub mod commands;
pub mod compare;
pub mod compile;
pub mod defaults;
pub mod doctor;
pub mod fit;
pub mod graph;
pub mod inspect;
pub mod interrupt;
pub mod limits;
pub mod locate;
pub mod losses;
pub mod manifest;
pub mod manual;
pub mod model;
pub mod opt;
pub mod outputs;
pub mod precision;
pub mod predict;
pub mod reduce;
pub mod report;
pub mod serving;
pub mod source;
pub mod usage;
pub mod verify;
pub mod version;

/// Parsers of texts. For the fuzz targets in `tests/fuzz` only.
#[doc(hidden)]
pub mod parsers {
    use std::path::Path;

    use jambac_checkpoint::Links;

    use crate::manifest::ModelFile;

    /// The model.toml at `path`. Files that it names are not read.
    pub fn model_toml(text: &str, path: &Path) -> anyhow::Result<ModelFile> {
        ModelFile::parse(text, path, Links::Inside)
    }
}
