//! Opt-in: every step runs alone, and the guards around the memory are looked at after it.

use jamba_plan::format::Step;

use crate::execute::Lane;

/// A lane that stops after every step; the first one looks at the guards meanwhile.
pub(crate) struct Checked<'a> {
    pub(crate) lane: &'a mut dyn Lane,
    /// Looks at the guards after the step of that index; None on all lanes but the first.
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
