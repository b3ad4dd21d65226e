//! Input of the chat: line editing with history on a terminal, plain lines from a pipe.

use std::io::{self, BufRead, IsTerminal};
use std::path::PathBuf;

use jamba_program::say;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::failure::Failure;
use crate::style;

/// Delimiter of multi-line messages.
const QUOTES: &str = "\"\"\"";

/// The source of messages.
pub(crate) struct Input {
    /// None if standard input is not a terminal.
    editor: Option<DefaultEditor>,
    history: Option<PathBuf>,
}

/// A line, or another event.
enum Line {
    Text(String),
    Dropped,
    End,
}

impl Input {
    pub(crate) fn new() -> Result<Input, Failure> {
        if !io::stdin().is_terminal() {
            return Ok(Input { editor: None, history: None });
        }
        let mut editor = DefaultEditor::new().map_err(failed)?;
        let history = history_file();
        if let Some(path) = &history {
            let _ = editor.load_history(path); // does not exist on first use
        }
        Ok(Input { editor: Some(editor), history })
    }

    /// True if standard input is a terminal.
    pub(crate) fn is_interactive(&self) -> bool {
        self.editor.is_some()
    }

    /// The next message or command; None at the end.
    pub(crate) fn next(&mut self) -> Result<Option<String>, Failure> {
        let mut text = String::new();
        let mut quoted = false;
        loop {
            let line = match self.line(if text.is_empty() && !quoted { "> " } else { "… " })? {
                Line::Text(line) => line,
                Line::Dropped => {
                    (text, quoted) = (String::new(), false);
                    continue;
                }
                Line::End if text.is_empty() => return Ok(None),
                Line::End => break,
            };
            if line.trim() == QUOTES {
                quoted = !quoted;
                if quoted {
                    continue;
                }
                break;
            }
            match line.strip_suffix('\\') {
                Some(begin) if !quoted => text = text + begin + "\n",
                _ => text += &line,
            }
            if quoted {
                text.push('\n');
            } else if !line.ends_with('\\') {
                break;
            }
        }
        let text = text.trim_end_matches('\n').to_owned();
        self.remember(&text);
        Ok(Some(text))
    }

    fn line(&mut self, prompt: &str) -> Result<Line, Failure> {
        let Some(editor) = &mut self.editor else { return piped_line() };
        match editor.readline(&style::on_stdout(style::Kind::Prompt, prompt)) {
            Ok(line) => Ok(Line::Text(line)),
            Err(ReadlineError::Interrupted) => {
                say!("{}", style::on_stderr(style::Kind::Quiet, "/exit or Ctrl-D ends the chat"));
                Ok(Line::Dropped)
            }
            Err(ReadlineError::Eof) => Ok(Line::End),
            Err(error) => Err(failed(error)),
        }
    }

    fn remember(&mut self, text: &str) {
        let Some(editor) = &mut self.editor else { return };
        // Failures to save the history are ignored.
        let _ = editor.add_history_entry(text);
        if let Some(path) = &self.history {
            let _ = editor.append_history(path);
        }
    }
}

fn piped_line() -> Result<Line, Failure> {
    let mut line = Vec::new();
    let read = io::stdin().lock().read_until(b'\n', &mut line);
    match read.map_err(|error| Failure::Input(format!("cannot read standard input: {error}")))? {
        0 => Ok(Line::End),
        _ => {
            let line = crate::generate::as_text(line, "a line of standard input")?;
            Ok(Line::Text(line.trim_end_matches(['\n', '\r']).to_owned()))
        }
    }
}

/// `$XDG_STATE_HOME/jamba/history`, by default in `~/.local/state`; None if the folder cannot be created.
fn history_file() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")))?;
    let folder = state.join("jamba");
    std::fs::create_dir_all(&folder).ok()?;
    Some(folder.join("history"))
}

fn failed(error: ReadlineError) -> Failure {
    Failure::Input(format!("cannot read from the terminal: {error}"))
}
