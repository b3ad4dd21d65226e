//! What a model computes of the hidden states after the last norm.

use serde_json::Value;

use crate::error::Result;
use crate::json::{Keys, show};

/// What a model computes of the hidden states after the last norm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head {
    /// Logits of the next token, by `lm_head` or the embedding of a tied model (`JambaForCausalLM`).
    Logits,
    /// A score for each label, by `score` (`JambaForSequenceClassification`).
    Scores {
        /// Names of the labels (`id2label`).
        labels: Vec<String>,
        /// How scores become probabilities.
        activation: Activation,
        /// Whether `score` adds a bias: whether the checkpoint has `score.bias`.
        bias: bool,
    },
    /// Nothing: the hidden states are the result (`JambaModel`).
    Hidden,
}

/// How scores become probabilities, as transformers' `TextClassificationPipeline` chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// One label of several.
    Softmax,
    /// Each label by itself; also the only label.
    Sigmoid,
    /// None: the score is a number that the model predicts (`problem_type` is `regression`).
    Identity,
}

/// Most labels of a classification.
const MAX_LABELS: usize = 1 << 16;

impl Head {
    /// Reads `architectures`, and the labels of a classification.
    pub(super) fn read(keys: &mut Keys) -> Result<Head> {
        let names = keys.take_non_null("architectures").unwrap_or_else(|| serde_json::json!(["JambaForCausalLM"]));
        match names.as_array().map(Vec::as_slice) {
            Some([Value::String(name)]) if name == "JambaForCausalLM" => Ok(Head::Logits),
            Some([Value::String(name)]) if name == "JambaModel" => Ok(Head::Hidden),
            Some([Value::String(name)]) if name == "JambaForSequenceClassification" => scores(keys),
            _ => Err(keys.refuse(
                "architectures",
                show(&names),
                "[\"JambaForCausalLM\"], [\"JambaForSequenceClassification\"] or [\"JambaModel\"]",
            )),
        }
    }
}

fn scores(keys: &mut Keys) -> Result<Head> {
    let n = keys.integer("num_labels", 1)?;
    let named = match keys.take_non_null("id2label") {
        Some(names) => Some(labels(keys, &names)?),
        None => None,
    };
    let labels = match (n, named) {
        (Some(n), Some(named)) if n != named.len() => {
            let found = format!("{n} and {} names", named.len());
            return Err(keys.refuse("num_labels, id2label", found, "a name for each label"));
        }
        (_, Some(named)) => named,
        // transformers writes neither for two labels.
        (n, None) => match n.unwrap_or(2) {
            n if n > MAX_LABELS => {
                return Err(keys.refuse("num_labels", n.to_string(), format!("at most {MAX_LABELS}")));
            }
            n => (0..n).map(|id| format!("LABEL_{id}")).collect(),
        },
    };
    let activation = match keys.take_non_null("problem_type") {
        Some(kind) if kind == "regression" => Activation::Identity,
        Some(kind) if kind == "multi_label_classification" => Activation::Sigmoid,
        Some(kind) if kind == "single_label_classification" => Activation::Softmax,
        None if labels.len() == 1 => Activation::Sigmoid,
        None => Activation::Softmax,
        Some(kind) => {
            let expected = "\"regression\", \"single_label_classification\" or \"multi_label_classification\"";
            return Err(keys.refuse("problem_type", show(&kind), expected));
        }
    };
    Ok(Head::Scores { labels, activation, bias: false })
}

/// `{"0": "no", "1": "yes"}` in the order of the ids.
fn labels(keys: &Keys, names: &Value) -> Result<Vec<String>> {
    let in_order = |names: &serde_json::Map<String, Value>| {
        let label = |id: usize| Some(names.get(&id.to_string())?.as_str()?.to_owned());
        (0..names.len()).map(label).collect::<Option<Vec<String>>>()
    };
    let names_in_order = names.as_object().filter(|names| (1..=MAX_LABELS).contains(&names.len())).and_then(in_order);
    names_in_order.ok_or_else(|| {
        keys.refuse("id2label", show(names), format!("the name of each id from \"0\" on, at most {MAX_LABELS}"))
    })
}
