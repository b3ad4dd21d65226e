//! Checked execution: synchronizes after every step and checks the guards around memory.

use jamba_plan::format::{Program, Step};

use crate::RuntimeError;
use crate::execute::Lane;

/// A guard that a step overwrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    /// Index of the step in its entry.
    pub(crate) step: usize,
    /// The memory region that the guard belongs to.
    pub(crate) region: &'static str,
}

impl Broken {
    /// The error that names the step's kernel and layer.
    pub(crate) fn error(self, program: &Program, entry: usize) -> RuntimeError {
        let step = &program.entries[entry].steps[self.step];
        RuntimeError::GuardBroken {
            step: self.step,
            kernel: program.kernels[step.kernel as usize].symbol.clone(),
            source_layer: step.source.clone(),
            region: self.region,
        }
    }
}

/// A lane that synchronizes after every step. The first lane then checks the guards while the others wait.
pub(crate) struct Checked<'a> {
    pub(crate) lane: &'a mut dyn Lane,
    /// Checks the guards after the step with this index; None on all lanes but the first.
    pub(crate) look: Option<&'a mut dyn FnMut(usize)>,
}

impl Lane for Checked<'_> {
    fn wait_for_all(&mut self) {
        self.lane.wait_for_all();
    }

    fn launch(&mut self, index: usize, step: &Step) {
        self.lane.launch(index, step);
        self.lane.wait_for_all();
        if let Some(look) = &mut self.look {
            look(index);
        }
        self.lane.wait_for_all();
    }
}
