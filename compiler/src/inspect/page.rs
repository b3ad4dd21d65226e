//! `jambac inspect --html`: one self-contained page. It embeds the document of `--json`, drawings of the arena, and the script
//! that lays out the rest.

use super::document::{Against, Document};
use super::measured::Measured;
use super::{OfKind, Parts, drawing};
use crate::outputs::GENERATOR;
use crate::report::Ours;
use anyhow::Result;

/// The page may load, send and frame nothing.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; \
                      base-uri 'none'; form-action 'none'";
const STYLE: &str = include_str!("page/page.css");
const BODY: &str = include_str!("page/page.html");
/// In the order in which they run.
const SCRIPTS: [&str; 7] = [
    include_str!("page/elements.js"),
    include_str!("page/head.js"),
    include_str!("page/memory.js"),
    include_str!("page/roofline.js"),
    include_str!("page/layers.js"),
    include_str!("page/tables.js"),
    include_str!("page/page.js"),
];

/// What the page shows beside the plan.
#[derive(Default)]
pub struct Beside {
    pub measured: Vec<Measured>,
    pub against: Option<Against>,
}

/// The page of a plan.
pub fn page(of_kind: OfKind<'_>, balance: Option<f64>, beside: Beside) -> Result<String> {
    let OfKind { plan, program, .. } = of_kind;
    let everything = Parts { memory: true, steps: true, kernels: true, balance };
    let Beside { measured, against } = beside;
    let document = Document { entries: None, measured, against, ..Document::new(of_kind, everything) };
    let data = serde_json::to_string(&document).ours("inspect")?;
    let drawings: String = program
        .entries
        .iter()
        .enumerate()
        .map(|(index, entry)| {
            let name = jamba_plan::text::entry_name(&program.entries, index);
            format!("<div class=\"drawing\" data-entry=\"{name}\">{}</div>\n", drawing::entry(program, entry))
        })
        .collect();
    let (before, after) = BODY.split_once("<!-- drawings -->").unwrap_or((BODY, ""));
    Ok([
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n",
        &format!("{GENERATOR}\n"),
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n",
        "<meta name=\"color-scheme\" content=\"light dark\">\n",
        &format!("<meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n"),
        &format!("<title>{}</title>\n", escaped(&plan.manifest().model.name)),
        &format!("<style>\n{STYLE}</style>\n</head>\n"),
        before,
        &drawings,
        after,
        // In JSON, a less-than sign occurs in strings only; unescaped it could end the element.
        &format!("<script type=\"application/json\" id=\"plan\">{}</script>\n", data.replace('<', "\\u003c")),
        &format!("<script>\n\"use strict\";\n{}</script>\n</body>\n</html>\n", SCRIPTS.concat()),
    ]
    .concat())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
