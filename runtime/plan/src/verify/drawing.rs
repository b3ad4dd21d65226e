//! Kernels that draw synthetic weights.

use super::device::launch_fits;
use super::{Against, is_c_name};
use crate::PlanError;
use crate::format::{TargetKind, Weight};
use crate::synthetic::{DrawnRows, STORE_BYTES};

/// Most launches that draw the weights of a program: one for each group and part. The largest Jamba takes some 20,000.
const MOST_LAUNCHES: u64 = 1 << 18;

/// 9. Checks the kernels that draw weights, and that they cover every weight.
pub(super) fn drawing(against: Against<'_>, seed: Option<u64>) -> Result<(), PlanError> {
    let Against { info, program, .. } = against;
    let (kernels, kind) = (&info.draw_kernels, info.kind.name());
    let complain = |what: String, found: String, expected: String| {
        Err(PlanError::record("manifest", format!("{kind}.draw_kernels{what}"), found, expected))
    };
    if kernels.is_empty() {
        return Ok(());
    }
    let expected = match (info.kind, seed) {
        (TargetKind::Cpu, _) => Some("none on a CPU"),
        (_, None) => Some("none: the plan holds its weights"),
        _ => None,
    };
    if let Some(expected) = expected {
        return complain(String::new(), kernels.len().to_string(), expected.to_owned());
    }
    for (index, kernel) in kernels.iter().enumerate() {
        let field = |what: &str| format!("[{index}].{what}");
        let others = kernels[..index].iter();
        let known = |symbol: &String| *symbol == kernel.symbol;
        let mut symbols = program.kernels.iter().map(|kernel| &kernel.symbol).chain(others.clone().map(|k| &k.symbol));
        if !is_c_name(&kernel.symbol) || symbols.any(known) {
            return complain(
                field("symbol"),
                format!("{:?}", kernel.symbol),
                "a name that a linker takes, once".to_owned(),
            );
        }
        if others.clone().any(|other| other.format == kernel.format) {
            return complain(field("format"), kernel.format.name().to_owned(), "each format once".to_owned());
        }
        // These rows do not depend on a step: all counts are 1.
        launch_fits(&kernel.launch, |_| 1)
            .or_else(|expected| complain(field("launch"), format!("{:?}", kernel.launch), expected))?;
    }
    let launches = |weight: &Weight| weight.layout.groups.saturating_mul(weight.parts.len() as u64);
    let launches = program.weights.iter().map(launches).fold(0, u64::saturating_add);
    if launches > MOST_LAUNCHES {
        return complain(String::new(), format!("{launches} launches"), format!("at most {MOST_LAUNCHES}"));
    }
    for (index, weight) in program.weights.iter().enumerate() {
        let drawn = DrawnRows::of(weight, 0).map(|_| ());
        drawn.and_then(|()| has_kernel(against, weight)).map_err(|expected| {
            let found = format!("{} {:?}", weight.format.name(), weight.layout);
            against.complain(format!("weights[{index}]"), found, expected)
        })?;
    }
    Ok(())
}

/// Checks that some kernel can draw the weight without writing outside the weights. The error is the expected property.
fn has_kernel(against: Against<'_>, weight: &Weight) -> Result<(), String> {
    let Against { info, .. } = against;
    if !info.draw_kernels.iter().any(|kernel| kernel.format == weight.format) {
        let formats: Vec<&str> = info.draw_kernels.iter().map(|kernel| kernel.format.name()).collect();
        return Err(format!("a format that a kernel draws: {}", formats.join(", ")));
    }
    if (weight.offset + weight.bytes).next_multiple_of(STORE_BYTES) > info.memory.weights {
        return Err(format!(
            "room up to a multiple of {STORE_BYTES} bytes in the {} bytes of weights",
            info.memory.weights
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::format::{Blocks, DrawKernel, Launch};

    /// Weights with a seed are in no file: a few bytes can state any number of groups. Refusing them takes no memory.
    #[test]
    fn groups_that_no_file_holds_are_counted_before_they_are_listed() {
        let (manifest, mut program) = (fixture::manifest(), fixture::sm_90a::program());
        let mut info = fixture::sm_90a::info(&manifest.limits);
        let symbol = "draw".to_owned();
        let launch = Launch::along_x(Blocks::PerSm(4), 256, 0);
        info.draw_kernels = vec![DrawKernel { symbol, format: program.weights[0].format, launch }];
        for groups in [MOST_LAUNCHES + 1, 1 << 45, u64::MAX] {
            program.weights[0].layout.groups = groups;
            let against = Against {
                model: &manifest.model,
                limits: &manifest.limits,
                info: &info,
                program: &program,
                section: "program",
            };
            let error = drawing(against, Some(1)).unwrap_err().to_string();
            assert!(error.contains("launches, expected at most 262144"), "{error}");
        }
    }
}
