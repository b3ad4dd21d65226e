//! Captures MLIR's messages and attaches them to our errors. Otherwise MLIR prints them to stderr and the errors lack the
//! cause.

use melior::Context;
use melior::diagnostic::{Diagnostic, DiagnosticHandlerId, DiagnosticSeverity};
use std::cell::RefCell;
use std::rc::Rc;

/// Captures the messages of a context until it is dropped.
pub struct Diagnostics<'c> {
    context: &'c Context,
    handler: Option<DiagnosticHandlerId>,
    messages: Rc<RefCell<Vec<String>>>,
}

impl<'c> Diagnostics<'c> {
    /// Starts capturing.
    pub fn catch(context: &'c Context) -> Self {
        let messages = Rc::new(RefCell::new(Vec::new()));
        let caught = Rc::clone(&messages);
        let handler = context.attach_diagnostic_handler(move |diagnostic| {
            caught.borrow_mut().push(render(&diagnostic));
            true
        });
        Diagnostics { context, handler: Some(handler), messages }
    }

    /// Returns and removes the messages so far, each preceded by a line break.
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

/// Formats `file:line:column: severity: message`, followed by the notes.
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
