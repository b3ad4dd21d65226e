//! A model.toml that is found in a folder, whose author may be a stranger: it names files of the folder only.

use std::path::Component;

use anyhow::{Context, Result, ensure};
use jambac_checkpoint::{Folder, Links};

use super::{MODEL_TOML, ModelFile};
use crate::calibrate::Text;

impl ModelFile {
    /// Reads the model.toml of a folder. What it names must be in the folder.
    pub(super) fn found(folder: &Folder, links: Links) -> Result<ModelFile> {
        let path = folder.path().join(MODEL_TOML);
        let text = String::from_utf8(folder.read(MODEL_TOML)?).with_context(|| path.display().to_string())?;
        let model = ModelFile::parse(&text, &path, links)?;
        let calibrate = match &model.weights.calibrate {
            Some(Text::File(path)) => Some(path),
            _ => None,
        };
        let named = [("model.checkpoint", Some(&model.checkpoint)), ("weights.calibrate", calibrate)];
        for (key, named) in named.into_iter().filter_map(|(key, named)| Some((key, named?))) {
            // A path that is not there has a better error when it is opened.
            let inside = named.strip_prefix(folder.path()).unwrap_or(named);
            let is_outside = match folder.reach(inside) {
                Err(jambac_checkpoint::Error::File { .. }) => true,
                _ => links == Links::Inside && inside.components().any(|part| part == Component::ParentDir),
            };
            ensure!(
                !is_outside,
                "{}: {key}: found {}, expected a path in this folder; to use it: name the model.toml itself, or --allow-links",
                path.display(),
                inside.display()
            );
        }
        Ok(model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_file_found_in_a_folder_names_nothing_outside_of_it() {
        let outside = tempfile::tempdir().unwrap();
        let folder = outside.path().join("model");
        let path = folder.join("model.toml");
        for name in ["model/weights", "other"] {
            std::fs::create_dir_all(outside.path().join(name)).unwrap();
        }
        std::os::unix::fs::symlink(outside.path().join("other"), folder.join("link")).unwrap();
        let other = outside.path().join("other");
        for (checkpoint, is_inside) in [
            (".", true),
            ("weights", true),
            ("weights/../weights", false),
            ("nothing", true),
            ("..", false),
            ("../other", false),
            ("../nothing", false),
            ("link", false),
            (other.to_str().unwrap(), false),
        ] {
            std::fs::write(&path, format!("[model]\ncheckpoint = {checkpoint:?}\n")).unwrap();
            let found = ModelFile::open(&folder).map_err(|error| format!("{error:#}"));
            assert_eq!(found.is_ok(), is_inside, "{checkpoint}");
            if let Err(error) = found {
                let said = format!("model.toml: model.checkpoint: found {checkpoint}, expected a path in this folder");
                assert!(error.contains(&said) && error.contains("--allow-links"), "{error}");
            }
            // Whoever names the file trusts it, and so does --allow-links.
            assert_eq!(ModelFile::open(&path).unwrap().checkpoint, folder.join(checkpoint));
            assert_eq!(ModelFile::open_with(&folder, Links::Anywhere).unwrap().checkpoint, folder.join(checkpoint));
        }
        std::fs::write(&path, "[model]\ncheckpoint = \".\"\n[weights]\ncalibrate = \"/etc/passwd\"\n").unwrap();
        let error = format!("{:#}", ModelFile::open(&folder).unwrap_err());
        assert!(error.contains("weights.calibrate: found /etc/passwd, expected a path in this folder"), "{error}");
        // The model file itself may be a link.
        std::fs::rename(&path, outside.path().join("secret.toml")).unwrap();
        std::os::unix::fs::symlink("../secret.toml", &path).unwrap();
        let error = format!("{:#}", ModelFile::open(&folder).unwrap_err());
        assert!(error.contains("leads out of the folder"), "{error}");
    }
}
