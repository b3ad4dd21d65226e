//! `jambac inspect --html`: one page that shows everything and asks nothing of the network. It holds the document that
//! `--json` prints, drawings of the arena, and the script that lays out the rest.

use anyhow::Result;
use jamba_plan::Plan;
use jamba_plan::format::{Program, ProgramInfo};

use super::document::Document;
use super::{What, drawing};
use crate::report::Ours;

/// Nothing is loaded, sent or framed: the page is all there is.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; \
                      base-uri 'none'; form-action 'none'";
const STYLE: &str = include_str!("page/page.css");
const BODY: &str = include_str!("page/page.html");
/// In the order in which they run.
const SCRIPTS: [&str; 5] = [
    include_str!("page/elements.js"),
    include_str!("page/head.js"),
    include_str!("page/layers.js"),
    include_str!("page/tables.js"),
    include_str!("page/page.js"),
];

/// The page of a plan.
pub fn page(plan: &Plan<'_>, of_kind: (&ProgramInfo, &Program), what: &What) -> Result<String> {
    let program = of_kind.1;
    let everything = What { memory: true, steps: true, kernels: true, ..what.clone() };
    let document = Document { entries: None, ..Document::new(plan, of_kind, &everything) };
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
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n",
        "<meta name=\"color-scheme\" content=\"light dark\">\n",
        &format!("<meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n"),
        &format!("<title>{}</title>\n", escaped(&plan.manifest().model.name)),
        &format!("<style>\n{STYLE}</style>\n</head>\n"),
        before,
        &drawings,
        after,
        // A less-than sign inside JSON stands in strings only, and could end the element.
        &format!("<script type=\"application/json\" id=\"plan\">{}</script>\n", data.replace('<', "\\u003c")),
        &format!("<script>\n\"use strict\";\n{}</script>\n</body>\n</html>\n", SCRIPTS.concat()),
    ]
    .concat())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
