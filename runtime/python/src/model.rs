//! Opens a plan and submits requests. Fields of requests and options come as JSON from the package's own code.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jamba_plan::sections::SectionKind;
use jamba_runtime::{
    AddedTokens, BatchOptions, Block, Cancel, DebugOptions, DeviceId, Engine, Feed, GenerateOptions, OpenOptions,
    Outputs, PlanFile, PrefixCache, PrefixChange, Request, RuntimeError, SequenceId, Snapshot as State, SpecialTokens,
    StateFormat, Verify,
};
use jamba_serve::{LocalRequest, LocalRequests};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyByteArray;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::errors::{exception, wrong};
use crate::mailbox::{Mailbox, Ticket};
use crate::sequence::{Sequence, Snapshot};
use crate::worker::{Client, Worker};

/// How a plan is opened.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    pub(crate) device: String,
    pub(crate) threads: Option<usize>,
    pub(crate) target: Option<String>,
    pub(crate) max_context: Option<u64>,
    pub(crate) max_sequences: Option<u64>,
    pub(crate) trust_weights: bool,
    pub(crate) require_digest: Option<String>,
    pub(crate) prefault: bool,
    pub(crate) check: bool,
}

/// How requests share the engine.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sharing {
    cache_bytes: u64,
    cache_interval: Option<usize>,
    has_journal: bool,
    step_tokens: Option<usize>,
    step_target_ms: Option<u64>,
}

impl Options {
    pub(crate) fn open(
        self,
        plan: PathBuf,
    ) -> PyResult<impl FnOnce() -> Result<Engine, RuntimeError> + Send + 'static> {
        let device: DeviceId =
            self.device.parse().map_err(|error| PyValueError::new_err(format!("device: {error}")))?;
        let digest = self.require_digest.as_deref().map(blake3::Hash::from_hex).transpose();
        let require_digest = digest.map_err(|_| {
            PyValueError::new_err("require_digest: expected 64 hexadecimal digits, as `jamba verify` prints them")
        })?;
        Ok(move || {
            let options = OpenOptions {
                device,
                threads: self.threads,
                isa: self.target,
                max_context: self.max_context,
                max_sequences: self.max_sequences,
                verify: if self.trust_weights { Verify::AllButWeights } else { Verify::Everything },
                require_digest,
                prefault: self.prefault,
                debug: if self.check { DebugOptions::CHECK } else { DebugOptions::default() },
                ..OpenOptions::default()
            };
            Engine::open(&plan, options)
        })
    }
}

/// The last block of a prefix, if it ends where a block ends: its name, that of its parent, and its tokens.
#[pyfunction]
pub(crate) fn last_block(prefix: Vec<u32>, block_size: usize) -> Option<(i64, Option<i64>, Vec<u32>)> {
    let Block { hash, parent, tokens } = Block::last_of(&prefix, block_size)?;
    Some((hash.cast_signed(), parent.map(u64::cast_signed), tokens.to_vec()))
}

/// The texts in a plan, by the names that they have in a checkpoint's folder.
#[pyfunction]
pub(crate) fn plan_texts(py: Python<'_>, plan: PathBuf) -> PyResult<Vec<(&'static str, Vec<u8>)>> {
    let texts = py.detach(|| {
        let file = PlanFile::open(&plan)?;
        let plan = file.plan(Verify::AllButWeights, &mut |_, _| ())?;
        let names = [
            (SectionKind::Config, "config.json"),
            (SectionKind::Tokenizer, "tokenizer.json"),
            (SectionKind::TokenizerConfig, "tokenizer_config.json"),
            (SectionKind::ChatTemplate, "chat_template.jinja"),
        ];
        let text = |(kind, name)| Some((name, plan.section(kind)?.to_vec()));
        Ok(names.into_iter().filter_map(text).collect())
    });
    texts.map_err(|error: RuntimeError| exception(&error))
}

/// Reads JSON of the package's own code.
pub(crate) fn read<'j, T: Deserialize<'j>>(json: &'j str) -> PyResult<T> {
    serde_json::from_str(json).map_err(|error| PyValueError::new_err(error.to_string()))
}

/// What the engine is asked once.
struct Facts {
    requests: LocalRequests,
    format: StateFormat,
    info: Value,
}

impl Facts {
    fn of(engine: &Engine) -> Result<Facts, RuntimeError> {
        let manifest = engine.manifest();
        let (model, limits, defaults) = (&manifest.model, &manifest.limits, engine.generate_options());
        let sampler = &defaults.sampler;
        let info = json!({
            "model": model.name,
            "n_parameters": model.n_parameters,
            "vocab": model.vocab,
            "bos": model.bos,
            "eos": model.eos,
            "max_context": limits.max_context,
            "max_sequences": limits.max_sequences,
            "kv_tokens": limits.kv_tokens,
            "kv_page_tokens": jamba_plan::format::KV_PAGE_TOKENS,
            "max_step_tokens": engine.max_step_tokens(),
            "target": engine.target(),
            "device": engine.device(),
            "threads": engine.threads(),
            "digest": engine.plan_digest().to_hex().as_str(),
            "weights_bytes": engine.memory().weights,
            "has_chat_template": engine.chat_template().is_ok(),
            "has_tokenizer": engine.tokenizer().is_ok(),
            "defaults": {
                "max_tokens": defaults.max_new,
                "temperature": sampler.temperature,
                "top_k": sampler.top_k,
                "top_p": sampler.top_p,
                "min_p": sampler.min_p,
                "repetition_penalty": sampler.repetition_penalty,
            },
        });
        Ok(Facts { requests: LocalRequests::new(engine)?, format: engine.state_format(), info })
    }
}

/// Whether a prefix of these tokens entered the cache.
type Change = (bool, Vec<u32>);

/// A plan that is open.
#[pyclass(frozen)]
pub(crate) struct Core {
    worker: Arc<Worker>,
    facts: Arc<Facts>,
}

impl Core {
    fn sequence(&self, id: SequenceId, pending: Vec<u32>) -> Sequence {
        Sequence::new(Arc::clone(&self.worker), id, pending)
    }
}

#[pymethods]
impl Core {
    #[new]
    fn new(py: Python<'_>, plan: PathBuf, options: &str, sharing: &str) -> PyResult<Core> {
        let open = read::<Options>(options)?.open(plan)?;
        let Sharing { cache_bytes, cache_interval, has_journal, step_tokens, step_target_ms } = read(sharing)?;
        let cache = (cache_bytes > 0).then(|| {
            let cache = PrefixCache::new(cache_bytes);
            let cache = match cache_interval {
                Some(tokens) => cache.with_interval(tokens),
                None => cache,
            };
            if has_journal { cache.with_journal() } else { cache }
        });
        let step_target = step_target_ms.map(Duration::from_millis);
        let batch = BatchOptions { step_tokens, step_target, ..BatchOptions::default() };
        let (worker, facts) = Worker::start(py, open, (batch, cache), Facts::of)?;
        Ok(Core { worker: Arc::new(worker), facts: Arc::new(facts) })
    }

    /// Facts as JSON.
    fn info(&self) -> String {
        self.facts.info.to_string()
    }

    /// Cancels all answers and frees the engine.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.worker.check_process()?;
        py.detach(|| self.worker.close());
        Ok(())
    }

    /// Submits a request for text. Its letters come to `mailbox` under `key`.
    fn submit(&self, py: Python<'_>, mailbox: &Mailbox, key: u64, prompt: Vec<u32>, fields: &str) -> PyResult<Ticket> {
        self.worker.check_process()?;
        let fields: Value = read(fields)?;
        let request = py.detach(|| self.facts.requests.completion(prompt, &fields)).map_err(wrong)?;
        self.send(mailbox, key, request)
    }

    /// As `submit`, for the answer to a chat, whose fields have the messages.
    fn submit_chat(&self, py: Python<'_>, mailbox: &Mailbox, key: u64, fields: &str) -> PyResult<Ticket> {
        self.worker.check_process()?;
        let fields: Value = read(fields)?;
        let request = py.detach(|| self.facts.requests.chat(&fields)).map_err(wrong)?;
        self.send(mailbox, key, request)
    }

    /// Begins an answer in a sequence. `tokens` are read first.
    fn submit_in(
        &self,
        py: Python<'_>,
        mailbox: &Mailbox,
        key: u64,
        sequence: &Sequence,
        tokens: Vec<u32>,
        fields: &str,
    ) -> PyResult<Ticket> {
        self.worker.check_process()?;
        let fields: Value = read(fields)?;
        let request = py.detach(|| self.facts.requests.completion(tokens, &fields)).map_err(wrong)?;
        let ticket = ticket(&request);
        sequence.begin(Arc::clone(&mailbox.letters), key, request.prompt, request.options)?;
        Ok(ticket)
    }

    fn tokenize(&self, py: Python<'_>, text: &str, special: bool) -> PyResult<Vec<u32>> {
        let added = if special { AddedTokens::AsConfigured } else { AddedTokens::None };
        py.detach(|| {
            let tokenizer = self.facts.requests.tokenizer().map_err(wrong)?;
            tokenizer.encode_within(text, None, added).map_err(|error| exception(&error))
        })
    }

    fn detokenize(&self, py: Python<'_>, tokens: Vec<u32>, special: bool) -> PyResult<String> {
        let special = if special { SpecialTokens::All } else { SpecialTokens::Hidden };
        py.detach(|| {
            let tokenizer = self.facts.requests.tokenizer().map_err(wrong)?;
            tokenizer.decode_with(&tokens, special).map_err(|error| exception(&error))
        })
    }

    /// The text of a chat as its template writes it, and its tokens.
    fn render(&self, py: Python<'_>, fields: &str) -> PyResult<(String, Vec<u32>)> {
        let fields: Value = read(fields)?;
        py.detach(|| {
            let requests = &self.facts.requests;
            let chat = requests.read_chat(&fields).map_err(wrong)?;
            let template = requests.template().map_err(wrong)?;
            let text = template.render_chat(&chat).map_err(|error| exception(&error))?;
            Ok((text, requests.encode(&chat).map_err(wrong)?.tokens))
        })
    }

    /// Rows of logits of a prompt as bytes of f32: of each token, or of the last one.
    fn logits<'py>(&self, py: Python<'py>, tokens: Vec<u32>, all: bool) -> PyResult<Bound<'py, PyByteArray>> {
        let cancel = Cancel::new();
        let flag = cancel.clone();
        let rows = self.worker.call(py, move |steps| {
            let sequence = steps.engine.add_sequence()?;
            let rows = rows(&mut steps.engine, sequence, &tokens, all, &flag);
            steps.engine.remove_sequence(sequence)?;
            rows
        });
        if rows.is_err() {
            cancel.cancel();
        }
        Ok(PyByteArray::new(py, &rows?))
    }

    /// A sequence that has read nothing.
    fn add_sequence(&self, py: Python<'_>) -> PyResult<Sequence> {
        let id = self.worker.call(py, |steps| steps.engine.add_sequence())?;
        Ok(self.sequence(id, Vec::new()))
    }

    fn restore(&self, py: Python<'_>, snapshot: &Snapshot) -> PyResult<Sequence> {
        let state = snapshot.0.clone();
        let id = self.worker.call(py, move |steps| steps.engine.restore(&state))?;
        Ok(self.sequence(id, snapshot.0.next().to_vec()))
    }

    fn load(&self, py: Python<'_>, path: PathBuf) -> PyResult<Snapshot> {
        let loaded = py.detach(|| self.facts.format.load(&path));
        Ok(Snapshot(loaded.map_err(|error| exception(&error))?))
    }

    fn snapshot_of(&self, py: Python<'_>, bytes: &[u8]) -> PyResult<Snapshot> {
        let read: Result<State, _> = py.detach(|| self.facts.format.read(bytes));
        Ok(Snapshot(read.map_err(|error| exception(&error))?))
    }

    /// What entered the cache (True) and left it (False) since the last call, in order; None where changes were lost.
    fn cache_changes(&self, py: Python<'_>) -> PyResult<Vec<Option<Change>>> {
        let changes = self
            .worker
            .call(py, |steps| Ok(steps.batch.cache_mut().map(PrefixCache::take_changes).unwrap_or_default()))?;
        let told = |change: PrefixChange| match change {
            PrefixChange::Stored(tokens) => Some((true, tokens.to_vec())),
            PrefixChange::Removed(tokens) => Some((false, tokens.to_vec())),
            PrefixChange::Lost => None,
        };
        Ok(changes.into_iter().map(told).collect())
    }

    /// What the engine holds now, as JSON.
    fn stats(&self, py: Python<'_>) -> PyResult<String> {
        let stats = self.worker.call(py, |steps| {
            let (slots, pages) = steps.engine.free();
            let cache = steps.batch.cache().map(PrefixCache::counters).unwrap_or_default();
            Ok(json!({
                "running": steps.batch.n_running(),
                "waiting": steps.batch.n_waiting(),
                "free_sequences": slots,
                "free_pages": pages,
                "preemptions": steps.batch.n_preemptions(),
                "cache": {
                    "prompts": cache.prompts,
                    "hits": cache.hits,
                    "tokens_saved": cache.tokens_saved,
                    "tokens_read": cache.tokens_read,
                    "evictions": cache.evictions,
                    "snapshots": cache.snapshots,
                    "bytes": cache.bytes,
                },
            }))
        })?;
        Ok(stats.to_string())
    }
}

impl Core {
    fn send(&self, mailbox: &Mailbox, key: u64, request: LocalRequest) -> PyResult<Ticket> {
        let ticket = ticket(&request);
        let client = Client { letters: Arc::clone(&mailbox.letters), key, n_open: request.n };
        let LocalRequest { prompt, turn_ends, options, n, priority, prompt_logprobs, .. } = request;
        let snapshot_at = turn_ends;
        let request = Request { prompt, options, n, priority, prompt_logprobs, snapshot_at, ..Request::default() };
        self.worker.send(move |steps| steps.submit(request, client))?;
        Ok(ticket)
    }
}

fn ticket(request: &LocalRequest) -> Ticket {
    let &LocalRequest { ref prompt, ref options, n, syntax, max_calls, .. } = request;
    let GenerateOptions { cancel, .. } = options;
    Ticket { cancel: cancel.clone(), prompt: prompt.clone(), n, syntax, max_calls }
}

/// Appends tokens to a sequence and returns rows of logits as bytes.
pub(crate) fn rows(
    engine: &mut Engine,
    sequence: SequenceId,
    tokens: &[u32],
    all: bool,
    cancel: &Cancel,
) -> Result<Vec<u8>, RuntimeError> {
    let mut bytes = Vec::new();
    let mut add = |row: &[f32]| bytes.extend(row.iter().flat_map(|logit| logit.to_le_bytes()));
    if !all {
        add(engine.prefill(sequence, tokens, None, Some(cancel))?.row(0));
        return Ok(bytes);
    }
    if tokens.is_empty() {
        return Err(RuntimeError::NoTokens);
    }
    let most = engine.max_step_tokens().min(engine.max_step_outputs());
    for tokens in tokens.chunks(most) {
        if cancel.is_cancelled() {
            return Err(RuntimeError::Cancelled);
        }
        engine.step(&[Feed { sequence, tokens, outputs: Outputs::All }])?.rows().for_each(&mut add);
    }
    Ok(bytes)
}
