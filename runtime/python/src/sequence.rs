//! Sequences that outlive an answer, and their snapshots.
//!
//! The last token of a sequence waits to be read until more follows: the model goes on behind it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use jamba_runtime::{Cancel, GenerateOptions, RuntimeError, SequenceId, Snapshot as State};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes};

use crate::errors::{EngineError, exception};
use crate::mailbox::Letters;
use crate::model::rows;
use crate::worker::{Held, Running, Worker};

/// A sequence of an open plan.
#[pyclass(frozen)]
pub(crate) struct Sequence {
    worker: Arc<Worker>,
    id: SequenceId,
    held: Arc<Held>,
}

/// A copy of a sequence's state.
#[pyclass(frozen)]
pub(crate) struct Snapshot(pub(crate) State);

impl Sequence {
    pub(crate) fn new(worker: Arc<Worker>, id: SequenceId, pending: Vec<u32>) -> Sequence {
        let held = Held::default();
        held.set_pending(pending);
        Sequence { worker, id, held: Arc::new(held) }
    }

    /// # Errors
    /// An answer runs in the sequence.
    fn check_idle(&self) -> PyResult<()> {
        match self.held.is_answering.load(Ordering::Acquire) {
            true => Err(EngineError::new_err("the session is answering: read its stream to the end, or close it")),
            false => Ok(()),
        }
    }

    /// Begins an answer behind `tokens`, whose letters come under `key`.
    pub(crate) fn begin(
        &self,
        letters: Arc<Letters>,
        key: u64,
        tokens: Vec<u32>,
        options: GenerateOptions,
    ) -> PyResult<()> {
        self.check_idle()?;
        let (id, held) = (self.id, Arc::clone(&self.held));
        self.held.is_answering.store(true, Ordering::Release);
        let sent = self.worker.send(move |steps| {
            let prompt = [held.pending(), tokens].concat();
            let turn = match prompt.is_empty() {
                true => Err(RuntimeError::NoTokens),
                false => steps.engine.turn(id, &prompt, &options),
            };
            let turn = match turn {
                Ok(turn) => {
                    // Told by the answer's tokens from now on.
                    held.set_pending(Vec::new());
                    Ok(Running { turn, letters, key, n_prompt: prompt.len(), n_new: 0, sequence: held })
                }
                Err(error) => Err((error, held, letters, key)),
            };
            steps.begin(turn);
        });
        if sent.is_err() {
            self.held.is_answering.store(false, Ordering::Release);
        }
        sent
    }
}

#[pymethods]
impl Sequence {
    /// All tokens, those that wait to be read included.
    fn tokens(&self, py: Python<'_>) -> PyResult<Vec<u32>> {
        let (id, held) = (self.id, Arc::clone(&self.held));
        self.worker.call(py, move |steps| Ok([steps.engine.tokens(id)?, &held.pending()].concat()))
    }

    /// Reads all of `tokens` but the last.
    fn append(&self, py: Python<'_>, tokens: Vec<u32>) -> PyResult<()> {
        self.check_idle()?;
        let (id, held, cancel) = (self.id, Arc::clone(&self.held), Cancel::new());
        let flag = cancel.clone();
        let appended = self.worker.call(py, move |steps| {
            let mut all = [held.pending(), tokens].concat();
            let Some(last) = all.pop() else { return Ok(()) };
            if !all.is_empty() {
                steps.engine.prefill(id, &all, None, Some(&flag))?;
            }
            held.set_pending(vec![last]);
            Ok(())
        });
        if appended.is_err() {
            cancel.cancel();
        }
        appended
    }

    /// The logits behind the last token as bytes of f32. The sequence stays as it is.
    fn logits<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyByteArray>> {
        let (id, held) = (self.id, Arc::clone(&self.held));
        let row = self.worker.call(py, move |steps| {
            let fork = steps.engine.fork(id)?;
            let row = rows(&mut steps.engine, fork, &held.pending(), false, &Cancel::new());
            steps.engine.remove_sequence(fork)?;
            row
        })?;
        Ok(PyByteArray::new(py, &row))
    }

    fn fork(&self, py: Python<'_>) -> PyResult<Sequence> {
        let (id, held) = (self.id, Arc::clone(&self.held));
        let (fork, pending) = self.worker.call(py, move |steps| Ok((steps.engine.fork(id)?, held.pending())))?;
        Ok(Sequence::new(Arc::clone(&self.worker), fork, pending))
    }

    fn snapshot(&self, py: Python<'_>) -> PyResult<Snapshot> {
        let (id, held) = (self.id, Arc::clone(&self.held));
        let state = self.worker.call(py, move |steps| Ok(steps.engine.snapshot(id)?.with_next(&held.pending())))?;
        Ok(Snapshot(state))
    }

    /// Frees the sequence.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.check_idle()?;
        let id = self.id;
        self.worker.call(py, move |steps| steps.engine.remove_sequence(id))
    }
}

impl Drop for Sequence {
    fn drop(&mut self) {
        let id = self.id;
        // It may be removed already, and the plan closed. A turn that runs ends with an error.
        let _ = self.worker.send(move |steps| {
            let _ = steps.engine.remove_sequence(id);
        });
    }
}

#[pymethods]
impl Snapshot {
    /// All tokens, those that wait to be read included.
    fn tokens(&self) -> Vec<u32> {
        [self.0.tokens(), self.0.next()].concat()
    }

    fn note(&self) -> &str {
        self.0.note()
    }

    fn with_note(&self, note: &str) -> Snapshot {
        Snapshot(self.0.clone().with_note(note))
    }

    /// Bytes of host memory.
    fn nbytes(&self) -> u64 {
        self.0.bytes()
    }

    fn target(&self) -> &str {
        self.0.target()
    }

    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        py.detach(|| self.0.save(&path)).map_err(|error| exception(&error))
    }

    fn to_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &py.detach(|| self.0.to_bytes()))
    }
}
