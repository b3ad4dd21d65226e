//! What the user wants to be ignored in a checkpoint: `ignore_keys` and `ignore_tensors` of model.toml.

/// Keys and tensors to ignore.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ignore {
    /// Keys of config.json that would be refused: unknown ones, and those whose value is not Jamba's.
    pub keys: Vec<String>,
    /// Names of tensors that the model does not have, as glob patterns: `*` matches any characters, dots included.
    pub tensors: Vec<glob::Pattern>,
    /// The head: the hidden states after the last norm are the result.
    pub head: bool,
}

impl Ignore {
    /// True for a key of config.json that is to be ignored.
    pub(crate) fn has_key(&self, key: &str) -> bool {
        self.keys.iter().any(|ignored| ignored == key)
    }

    /// True for a tensor that is to be ignored.
    pub fn has_tensor(&self, name: &str) -> bool {
        self.tensors.iter().any(|pattern| pattern.matches(name))
    }
}
