//! A pass on a graph in text, for the tests under each pass.

use expect_test::Expect;
use jambac_graph::Graph;
use jambac_graph::text::{diff, print, read};
use jambac_graph::verify::verify;

use crate::pass::Pass;
use crate::rewrite::{Changed, Rewriter};

/// Checks the difference that a pass makes in a graph of these lines, and that a second run changes nothing.
pub(crate) fn check(pass: impl Pass, lines: &str, expected: Expect) {
    check_graph(pass, &of_lines(lines), expected);
}

/// [`check`] for a whole graph.
pub(crate) fn check_graph(pass: impl Pass, text: &str, expected: Expect) {
    let before = graph(text);
    let mut after = before.clone();
    assert_ne!(pass.run(&mut Rewriter::new(&mut after, None)), Changed(0));
    verify(&after).unwrap_or_else(|error| panic!("{error}\n{}", print(&after)));
    expected.assert_eq(&diff(&before, &after));
    assert_eq!(pass.run(&mut Rewriter::new(&mut after, None)), Changed(0), "the second time");
}

/// Checks that a pass does not change a graph of these lines.
pub(crate) fn check_unchanged(pass: impl Pass, lines: &str) {
    check_unchanged_graph(pass, &of_lines(lines));
}

/// [`check_unchanged`] for a whole graph.
pub(crate) fn check_unchanged_graph(pass: impl Pass, text: &str) {
    let before = graph(text);
    let mut after = before.clone();
    assert_eq!(pass.run(&mut Rewriter::new(&mut after, None)), Changed(0), "{}", diff(&before, &after));
    assert_eq!(print(&before), print(&after));
}

fn of_lines(lines: &str) -> String {
    format!("graph @g {{\n{lines}\n}}")
}

fn graph(text: &str) -> Graph {
    read(text).unwrap_or_else(|error| panic!("{error} in\n{text}"))
}
