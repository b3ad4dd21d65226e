//! `[weights]` of model.toml: formats of groups of parameters and by pattern, and the text of the calibration.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result};
use jamba_plan::format::WeightFormat;
use serde::{Deserialize, Deserializer, de};

use super::{parsed, weight_format};
use crate::calibrate::Text;

/// The value of `weights.default` that asks for automatic formats.
const AUTO: &str = "auto";

/// The format of linear layers on a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatChoice {
    /// Formats that fit a memory size.
    Auto,
    Format(WeightFormat),
}

impl FromStr for FormatChoice {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<FormatChoice> {
        if text == AUTO {
            return Ok(FormatChoice::Auto);
        }
        weight_format("weights.default", text).map(FormatChoice::Format)
    }
}

/// Weight formats; `None` keeps the format that the checkpoint stores.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weights {
    /// All linear layers. Of int4 and int3, the output projection to the vocabulary is int8.
    pub default: Option<WeightFormat>,
    /// `default = "auto"`: [`precision::choose`](crate::precision::choose) selects the formats and replaces this by patterns.
    pub auto: bool,
    /// The experts alone.
    pub experts: Option<WeightFormat>,
    /// Formats of the parameters that match a pattern.
    pub patterns: Vec<ByPattern>,
    /// The text with which integers are calibrated. `None` is none for the library; `jambac build` samples it for int4 and int3.
    pub calibrate: Option<Text>,
}

/// The format of the parameters whose canonical names match a pattern, with or without their last `.weight`.
#[derive(Clone, Debug, PartialEq)]
pub struct ByPattern {
    pub pattern: glob::Pattern,
    pub format: WeightFormat,
}

impl ByPattern {
    /// Parses a key and a value of `[weights]`.
    ///
    /// # Errors
    /// Not a pattern, or an unknown format.
    pub fn new(pattern: &str, format: &str) -> Result<ByPattern> {
        let key = format!("weights.{pattern}");
        let parsed = glob::Pattern::new(pattern);
        let pattern =
            parsed.with_context(|| format!("{key}: expected default, experts, calibrate or a glob pattern"))?;
        Ok(ByPattern { pattern, format: weight_format(&key, format)? })
    }

    /// True if the pattern matches a parameter's name.
    pub fn matches(&self, parameter: &str) -> bool {
        let short = parameter.strip_suffix(".weight");
        self.pattern.matches(parameter) || short.is_some_and(|short| self.pattern.matches(short))
    }
}

impl FromStr for ByPattern {
    type Err = anyhow::Error;

    /// `lm_head=int8`.
    fn from_str(text: &str) -> Result<ByPattern> {
        let (pattern, format) = text.split_once('=').context("expected PATTERN=FORMAT, such as lm_head=int8")?;
        ByPattern::new(pattern, format)
    }
}

impl fmt::Display for ByPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.pattern, self.format.name())
    }
}

impl Weights {
    /// True if a format of 4 bits or fewer was chosen.
    pub fn has_few_bits(&self) -> bool {
        let chosen = [self.default, self.experts].into_iter().flatten();
        chosen.chain(self.patterns.iter().map(|by| by.format)).any(|format| format.bits() <= 4)
    }
}

impl<'de> Deserialize<'de> for Weights {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Weights, D::Error> {
        struct Table;
        impl<'de> de::Visitor<'de> for Table {
            type Value = Weights;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("weights: a table of formats")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Weights, A::Error> {
                let mut weights = Weights::default();
                while let Some(key) = map.next_key::<String>()? {
                    map.next_value_seed(Value { key: &key, weights: &mut weights })?;
                }
                Ok(weights)
            }
        }
        /// The value of a key, so that an error names its line.
        struct Value<'a> {
            key: &'a str,
            weights: &'a mut Weights,
        }
        impl<'de> de::DeserializeSeed<'de> for Value<'_> {
            type Value = ();

            fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
                let Value { key, weights } = self;
                let value = String::deserialize(deserializer)?;
                match key {
                    "default" if value == AUTO => weights.auto = true,
                    "default" => weights.default = Some(parsed(weight_format("weights.default", &value))?),
                    "experts" => weights.experts = Some(parsed(weight_format("weights.experts", &value))?),
                    "calibrate" => weights.calibrate = Some(value.as_str().into()),
                    pattern => weights.patterns.push(parsed(ByPattern::new(pattern, &value))?),
                }
                Ok(())
            }
        }
        deserializer.deserialize_map(Table)
    }
}
