//! MLIR's messages, caught and attached to our errors. Without this they go to stderr and the error says nothing.

use melior::Context;
use melior::diagnostic::{Diagnostic, DiagnosticHandlerId, DiagnosticSeverity};
use std::cell::RefCell;
use std::rc::Rc;

/// Catches the messages of a context while it lives.
pub struct Diagnostics<'c> {
    context: &'c Context,
    handler: Option<DiagnosticHandlerId>,
    messages: Rc<RefCell<Vec<String>>>,
}

impl<'c> Diagnostics<'c> {
    /// Starts to catch.
    pub fn catch(context: &'c Context) -> Self {
        let messages = Rc::new(RefCell::new(Vec::new()));
        let caught = Rc::clone(&messages);
        let handler = context.attach_diagnostic_handler(move |diagnostic| {
            caught.borrow_mut().push(render(&diagnostic));
            true
        });
        Diagnostics { context, handler: Some(handler), messages }
    }

    /// The messages so far, each on a line of its own that starts with a line break; removes them.
    pub fn take(&self) -> String {
        self.messages.borrow_mut().drain(..).map(|message| format!("\n  {message}")).collect()
    }
}

impl Drop for Diagnostics<'_> {
    fn drop(&mut self) {
        if let Some(handler) = self.handler.take() {
            self.context.detach_diagnostic_handler(handler);
        }
    }
}

/// `file:line:column: severity: message`, and its notes below it.
fn render(diagnostic: &Diagnostic) -> String {
    let severity = match diagnostic.severity() {
        DiagnosticSeverity::Error => "error",
        DiagnosticSeverity::Note => "note",
        DiagnosticSeverity::Remark => "remark",
        DiagnosticSeverity::Warning => "warning",
    };
    let location = diagnostic.location().to_string();
    let location = location.trim_start_matches("loc(").trim_end_matches(')').replace('"', "");
    let notes = (0..diagnostic.note_count()).filter_map(|note| diagnostic.note(note).ok());
    let notes: String = notes.map(|note| format!("\n    note: {note}")).collect();
    format!("{location}: {severity}: {diagnostic}{notes}")
}
