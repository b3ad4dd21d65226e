//! `jambac build --report-quantization`: the quantization error of each parameter, as a table or as JSON.

use anyhow::Result;
use jamba_plan::format::TargetKind;
use jamba_plan::output::Output;
use jambac_codegen::loss::Loss;
use serde_json::json;

/// Writes the errors to `to`: JSON where the name ends in `.json`, a table otherwise.
pub fn write(losses: &[(TargetKind, Loss)], to: Output) -> Result<()> {
    let of_kinds: Vec<(&str, &Loss)> = losses.iter().map(|(kind, loss)| (kind.name(), loss)).collect();
    let text = match to.path().extension() {
        Some(extension) if extension == "json" => document(&of_kinds),
        _ => table(&of_kinds),
    };
    Ok(to.write(text.as_bytes())?)
}

/// One line for each parameter with an error.
fn table(losses: &[(&str, &Loss)]) -> String {
    let head = ["kind", "format", "values", "max |w|", "max |w − q|", "‖w − q‖ / ‖w‖", "parameter"].map(str::to_owned);
    let line = |(kind, loss): &(&str, &Loss)| {
        [
            (*kind).to_owned(),
            loss.format.name().to_owned(),
            loss.n_values.to_string(),
            format!("{:.4e}", loss.largest),
            format!("{:.4e}", loss.max_error),
            format!("{:.4e}", loss.relative_rms),
            name(loss),
        ]
    };
    let rows = std::iter::once(head).chain(losses.iter().map(line));
    jamba_plan::text::table(rows, |column| matches!(column, 0 | 1 | 6))
}

/// The parameter, with its range of rows unless that starts at row 0.
fn name(loss: &Loss) -> String {
    match loss.rows {
        (0, _) => loss.parameter.clone(),
        (first, n) => format!("{}[{first}..{}]", loss.parameter, first + n),
    }
}

fn document(losses: &[(&str, &Loss)]) -> String {
    let entry = |(kind, loss): &(&str, &Loss)| {
        json!({
            "kind": kind,
            "parameter": loss.parameter,
            "first_row": loss.rows.0,
            "n_rows": loss.rows.1,
            "format": loss.format.name(),
            "n_values": loss.n_values,
            "largest": loss.largest,
            "max_error": loss.max_error,
            "relative_rms": loss.relative_rms,
        })
    };
    let document = json!({ "losses": losses.iter().map(entry).collect::<Vec<_>>() });
    format!("{document:#}\n")
}
