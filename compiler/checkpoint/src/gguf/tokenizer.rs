//! tokenizer.json and tokenizer_config.json of a GGUF file's vocabulary.
//!
//! | `tokenizer.ggml.model` | vocabulary | merges |
//! |---|---|---|
//! | `llama` | SentencePiece's pieces, bytes as `<0x0A>`, `▁` for spaces | of the pieces: each pair that makes a piece, the best piece first |
//! | `gpt2` | bytes as printable characters | `tokenizer.ggml.merges`; `tokenizer.ggml.pre` names the way to cut texts into words |

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::Keys;
use crate::error::{Error, Result};

const MODEL: &str = "tokenizer.ggml.model";
const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const PRE: &str = "tokenizer.ggml.pre";
const TEMPLATE: &str = "tokenizer.chat_template";

/// SentencePiece's character for a space.
const SPACE: &str = "\u{2581}";

/// Types of tokens (`tokenizer.ggml.token_type`).
const NORMAL: u64 = 1;
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const USER: u64 = 4;
const BYTE: u64 = 6;

/// Words of the tokenizers of Llama 3 and of Qwen 2, which differ in the digits of a number.
const LLAMA_3: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const QWEN_2: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/// Whether the vocabulary is SentencePiece's; `None` without a vocabulary.
fn is_sentencepiece(keys: &Keys) -> Result<Option<bool>> {
    match keys.text(MODEL)? {
        None | Some("none" | "no_vocab") => Ok(None),
        Some("llama") => Ok(Some(true)),
        Some("gpt2") => Ok(Some(false)),
        Some(_) => Err(keys.refuse(MODEL, "\"llama\" or \"gpt2\"; build from the model's Hugging Face folder")),
    }
}

/// The token of a kind: `bos`, `eos`; llama.cpp's default for SentencePiece is `default`.
fn token(keys: &Keys, kind: &str, default: u64) -> Result<Option<u64>> {
    let found = keys.optional(&format!("tokenizer.ggml.{kind}_token_id"))?;
    Ok(found.or(is_sentencepiece(keys)?.filter(|is_it| *is_it).map(|_| default)))
}

/// The token that begins a text.
pub(super) fn bos(keys: &Keys) -> Result<Option<u64>> {
    token(keys, "bos", 1)
}

/// The tokens that end a text, a turn or a message.
pub(super) fn ends(keys: &Keys) -> Result<Vec<u64>> {
    let mut ends: Vec<u64> = token(keys, "eos", 2)?.into_iter().collect();
    for kind in ["eot", "eom"] {
        ends.extend(keys.optional(&format!("tokenizer.ggml.{kind}_token_id"))?.filter(|id| !ends.contains(id)));
    }
    Ok(ends)
}

/// The texts of tokenizer.json and tokenizer_config.json, without a vocabulary none.
pub(super) fn read(keys: &Keys) -> Result<[Option<Vec<u8>>; 2]> {
    let Some(is_sentencepiece) = is_sentencepiece(keys)? else { return Ok([None, None]) };
    let Some(tokens) = keys.list(TOKENS, Value::as_str, "texts")? else {
        return Err(keys.refuse(TOKENS, "the vocabulary"));
    };
    let types = keys.list(TYPES, Value::as_u64, "types of tokens")?.unwrap_or_else(|| vec![NORMAL; tokens.len()]);
    if types.len() != tokens.len() {
        let found = format!("{} types of {} tokens", types.len(), tokens.len());
        return Err(Error::key(keys.path, TYPES, found, "a type for each token"));
    }
    let vocabulary = Vocabulary { keys, tokens: &tokens, types: &types };
    let tokenizer = match is_sentencepiece {
        true => vocabulary.sentencepiece()?,
        false => vocabulary.bytes()?,
    };
    let config = vocabulary.config(is_sentencepiece)?;
    Ok([Some(tokenizer.to_string().into_bytes()), Some(format!("{config:#}\n").into_bytes())])
}

struct Vocabulary<'a> {
    keys: &'a Keys<'a>,
    tokens: &'a [&'a str],
    types: &'a [u64],
}

impl Vocabulary<'_> {
    fn sentencepiece(&self) -> Result<Value> {
        // llama.cpp's defaults.
        let prefix = self.keys.boolean("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
        let normalizer = match prefix {
            true => json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, replace]}),
            false => replace,
        };
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if prefix {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let unknown = self.keys.optional("tokenizer.ggml.unknown_token_id")?.unwrap_or(0);
        let model = Model {
            merges: self.merges_of_pieces()?,
            unknown: self.tokens.get(unknown as usize).filter(|_| self.types.contains(&UNKNOWN)).copied(),
            has_bytes: self.types.contains(&BYTE),
            takes_whole_words: false,
        };
        let decoder = json!({"type": "Sequence", "decoders": decoders});
        self.document(normalizer, Value::Null, decoder, &model, self.post_processor(true)?)
    }

    /// Every pair of pieces that makes a piece, the best piece first: the highest score, or, where all scores are the same, as the
    /// converter writes them without tokenizer.model, the first.
    fn merges_of_pieces(&self) -> Result<Vec<[String; 2]>> {
        let number = |value: &Value| value.as_f64();
        let scores = self.keys.list(SCORES, number, "numbers")?.unwrap_or_else(|| vec![0.0; self.tokens.len()]);
        if scores.len() != self.tokens.len() {
            let found = format!("{} scores of {} tokens", scores.len(), self.tokens.len());
            return Err(Error::key(self.keys.path, SCORES, found, "a score for each token"));
        }
        let normal = || (0..self.tokens.len()).filter(|&id| self.types[id] == NORMAL);
        let ids: HashMap<&str, usize> = normal().map(|id| (self.tokens[id], id)).collect();
        let mut pairs = Vec::new();
        for id in normal() {
            let piece = self.tokens[id];
            for (at, _) in piece.char_indices().skip(1) {
                let (left, right) = piece.split_at(at);
                if ids.contains_key(left) && ids.contains_key(right) {
                    pairs.push((id, left, right));
                }
            }
        }
        let are_same = normal().all(|id| scores[id] == scores[normal().next().unwrap_or(0)]);
        let length = |text: &str| text.chars().count();
        pairs.sort_by(|(a, left, _), (b, other, _)| {
            let by_score = if are_same { a.cmp(b) } else { scores[*b].total_cmp(&scores[*a]) };
            by_score.then_with(|| length(other).cmp(&length(left)))
        });
        Ok(pairs.into_iter().map(|(_, left, right)| [left.to_owned(), right.to_owned()]).collect())
    }

    fn bytes(&self) -> Result<Value> {
        let pre = self.keys.text(PRE)?;
        let words = |pattern: &str| {
            let split =
                json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
            let bytes =
                json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
            json!({"type": "Sequence", "pretokenizers": [split, bytes]})
        };
        let pre_tokenizer = match pre {
            Some("gpt-2") => {
                json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true})
            }
            Some("llama-bpe" | "llama3" | "llama-v3") => words(LLAMA_3),
            Some("qwen2") => words(QWEN_2),
            _ => {
                let expected = "\"gpt-2\", \"llama-bpe\" or \"qwen2\"; build from the model's Hugging Face folder";
                return Err(self.keys.refuse(PRE, expected));
            }
        };
        let Some(merges) = self.keys.list(MERGES, Value::as_str, "pairs")? else {
            return Err(self.keys.refuse(MERGES, "the pairs of tokens that are joined"));
        };
        let mut pairs = Vec::with_capacity(merges.len());
        for merge in merges {
            let Some((left, right)) = merge.split_once(' ') else {
                return Err(Error::key(
                    self.keys.path,
                    MERGES,
                    format!("{merge:?}"),
                    "two tokens with a space between",
                ));
            };
            pairs.push([left.to_owned(), right.to_owned()]);
        }
        let takes_whole_words = matches!(pre, Some("llama-bpe" | "llama3" | "llama-v3"));
        let model = Model { merges: pairs, unknown: None, has_bytes: false, takes_whole_words };
        let decoder = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
        self.document(Value::Null, pre_tokenizer, decoder, &model, self.post_processor(false)?)
    }

    fn document(
        &self,
        normalizer: Value,
        pre_tokenizer: Value,
        decoder: Value,
        model: &Model,
        post_processor: Value,
    ) -> Result<Value> {
        let mut vocab = Map::new();
        for (id, token) in self.tokens.iter().enumerate() {
            if let Some(other) = vocab.insert((*token).to_owned(), json!(id)) {
                let found = format!("{token:?} as tokens {other} and {id}");
                return Err(Error::key(self.keys.path, TOKENS, found, "each text once"));
            }
        }
        let added = |id: usize| {
            json!({
                "id": id, "content": self.tokens[id], "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": self.types[id] != USER,
            })
        };
        let is_added = |id: &usize| [UNKNOWN, CONTROL, USER].contains(&self.types[*id]);
        let added: Vec<Value> = (0..self.tokens.len()).filter(is_added).map(added).collect();
        Ok(json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": post_processor,
            "decoder": decoder,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": model.unknown, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": model.unknown.is_some(), "byte_fallback": model.has_bytes,
                "ignore_merges": model.takes_whole_words, "vocab": vocab, "merges": model.merges,
            },
        }))
    }

    /// Puts the begin and end tokens around a text, if the file says so. `default` is llama.cpp's for the begin token.
    fn post_processor(&self, default: bool) -> Result<Value> {
        let [begin, end] = self.adds(default)?;
        if begin.is_none() && end.is_none() {
            return Ok(Value::Null);
        }
        let special = |token: &Option<(u64, &str)>, sequence: u8| {
            token.map(|(_, text)| json!({"SpecialToken": {"id": text, "type_id": sequence}}))
        };
        let around = |sequence: &str, number: u8| -> Vec<Value> {
            let text = json!({"Sequence": {"id": sequence, "type_id": number}});
            [special(&begin, number), Some(text), special(&end, number)].into_iter().flatten().collect()
        };
        let pair: Vec<Value> = around("A", 0).into_iter().chain(around("B", 1)).collect();
        let tokens: Map<String, Value> = [begin, end]
            .into_iter()
            .flatten()
            .map(|(id, text)| (text.to_owned(), json!({"id": text, "ids": [id], "tokens": [text]})))
            .collect();
        Ok(json!({
            "type": "TemplateProcessing", "single": around("A", 0), "pair": pair, "special_tokens": tokens,
        }))
    }

    /// The tokens that begin and end each text.
    fn adds(&self, default: bool) -> Result<[Option<(u64, &str)>; 2]> {
        let add = |key: &str, default: bool, id: Option<u64>| -> Result<Option<(u64, &str)>> {
            let is_added = self.keys.boolean(&format!("tokenizer.ggml.add_{key}_token"))?.unwrap_or(default);
            Ok(id.filter(|_| is_added).and_then(|id| Some((id, *self.tokens.get(id as usize)?))))
        };
        Ok([add("bos", default, bos(self.keys)?)?, add("eos", false, token(self.keys, "eos", 2)?)?])
    }

    fn config(&self, default: bool) -> Result<Value> {
        let text = |id: Option<u64>| id.and_then(|id| self.tokens.get(id as usize));
        let [begin, end] = self.adds(default)?;
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": text(bos(self.keys)?),
            "eos_token": text(token(self.keys, "eos", 2)?),
            "pad_token": text(self.keys.optional("tokenizer.ggml.padding_token_id")?),
            "add_bos_token": begin.is_some(),
            "add_eos_token": end.is_some(),
            "clean_up_tokenization_spaces": false,
        });
        let template = self.keys.text(TEMPLATE)?;
        let named = |(key, value): (&String, &Value)| {
            let name = key.strip_prefix(TEMPLATE)?.strip_prefix('.')?;
            Some(json!({"name": name, "template": value.as_str()?}))
        };
        let others: Vec<Value> = self.keys.metadata.iter().filter_map(named).collect();
        config["chat_template"] = match (template, others.is_empty()) {
            (None, true) => return Ok(config),
            (Some(template), true) => json!(template),
            (template, false) => {
                let default = template.map(|template| json!({"name": "default", "template": template}));
                default.into_iter().chain(others).collect()
            }
        };
        Ok(config)
    }
}

/// The parts of a model of merges that differ.
struct Model<'a> {
    merges: Vec<[String; 2]>,
    unknown: Option<&'a str>,
    has_bytes: bool,
    /// Whether a word that is a token is taken without merges.
    takes_whole_words: bool,
}
