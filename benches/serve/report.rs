//! The table of results.

use std::fmt::Write;

/// A bar.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// The value must not be less.
    Least(f64),
    /// The value must not be more.
    Most(f64),
}

/// The median of several values, the least and the most.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    /// `None` of no values.
    pub fn of(mut values: Vec<f64>) -> Option<Spread> {
        values.sort_by(f64::total_cmp);
        Some(Spread { median: *values.get(values.len() / 2)?, least: *values.first()?, most: *values.last()? })
    }

    fn text(self) -> String {
        match self.least == self.most {
            true => number(self.median),
            false => format!("{} ({} … {})", number(self.median), number(self.least), number(self.most)),
        }
    }
}

/// A row of the report.
#[derive(Clone, Debug)]
pub struct Row {
    /// Such as `W1`.
    pub workload: &'static str,
    /// What is measured, with its unit.
    pub measure: String,
    /// Our value, the median of the pairs.
    pub ours: f64,
    /// That of the peer.
    pub theirs: Option<f64>,
    /// The pairs' ratios, ours to theirs.
    pub ratio: Option<Spread>,
    /// The bar on our value.
    pub goal: Option<Goal>,
    /// The bar on the ratio.
    pub ratio_goal: Option<Goal>,
}

impl Row {
    /// A row of ours alone, without a bar.
    pub fn new(workload: &'static str, measure: &str, ours: f64) -> Row {
        let measure = measure.to_owned();
        Row { workload, measure, ours, theirs: None, ratio: None, goal: None, ratio_goal: None }
    }

    /// Adds a bar.
    pub fn goal(self, goal: Goal) -> Row {
        Row { goal: Some(goal), ..self }
    }

    fn is_met(&self) -> Option<bool> {
        let meets = |value: f64, goal: Goal| match goal {
            Goal::Least(least) => value >= least,
            Goal::Most(most) => value <= most,
        };
        let own = self.goal.map(|goal| meets(self.ours, goal));
        let ratio = self.ratio_goal.zip(self.ratio).map(|(goal, ratio)| meets(ratio.median, goal));
        match (own, ratio) {
            (None, None) => None,
            (own, ratio) => Some(own.unwrap_or(true) && ratio.unwrap_or(true)),
        }
    }
}

fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn bar(goal: Goal) -> String {
    match goal {
        Goal::Least(least) => format!("≥ {least}"),
        Goal::Most(most) => format!("≤ {most}"),
    }
}

/// The rows as a Markdown table.
pub fn table(rows: &[Row]) -> String {
    let mut text =
        "| | measure | ours | llama-server | ratio | bar | met |\n|---|---|---|---|---|---|---|\n".to_owned();
    for row in rows {
        let ratio_bar = row.ratio_goal.map(|goal| format!("ratio {}", bar(goal)));
        let bars: Vec<String> = row.goal.map(bar).into_iter().chain(ratio_bar).collect();
        let met = row.is_met().map_or("", |met| if met { "yes" } else { "**no**" });
        let ratio = row.ratio.map(Spread::text).unwrap_or_default();
        let (ours, theirs) = (number(row.ours), row.theirs.map(number).unwrap_or_default());
        let bars = bars.join(", ");
        let line = format!("| {} | {} | {ours} | {theirs} | {ratio} | {bars} | {met} |", row.workload, row.measure);
        let _ = writeln!(text, "{line}"); // into a String
    }
    text
}
