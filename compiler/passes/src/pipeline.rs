//! The passes in the order in which they run, with the ordering constraints that the order must meet.

use std::fmt;

use jambac_graph::Op;

use crate::pass::Pass;
use crate::{
    EliminateDead, FuseConvSilu, FuseDtNorms, FuseDtScan, FuseDtSoftplus, FuseExperts, FuseGateUp, FuseInProj,
    FuseKvAppend, FuseNormLinear, FuseNormsScan, FuseProjConv, FuseQkv, FuseResidualNorm, FuseRouter, FuseScanGate,
    FuseSwiglu, HoistSelectRows,
};

/// A pass at its place in the pipeline.
pub struct Planned {
    pub pass: &'static dyn Pass,
    /// Its ordering constraints.
    pub order: &'static [Order],
    /// The reason of the constraints.
    pub reason: &'static str,
}

/// A constraint on the place of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Before every other pass.
    First,
    /// After the pass of this name.
    After(&'static str),
    /// Before the pass of this name.
    Before(&'static str),
}

use Order::{After, Before, First};

/// Passes that make an op which a target may have no kernel for, by name, with the op.
pub fn fused_ops() -> impl Iterator<Item = (&'static str, Op)> {
    PIPELINE.iter().filter_map(|planned| Some((planned.pass.name(), planned.pass.makes()?)))
}

/// Every pass in the order in which they run.
pub const PIPELINE: &[Planned] = &[
    Planned {
        pass: &EliminateDead,
        order: &[First],
        reason: "a dead reader keeps a value from being fused; fusions leave none",
    },
    Planned {
        pass: &FuseConvSilu,
        order: &[Before("fuse-scan-gate"), Before("fuse-swiglu"), Before("hoist-select-rows")],
        reason: "they take a silu, or move it away from its convolution",
    },
    Planned {
        pass: &FuseDtSoftplus,
        order: &[Before("hoist-select-rows")],
        reason: "it moves a softplus away from its linear",
    },
    Planned {
        pass: &FuseDtNorms,
        order: &[Before("hoist-select-rows"), Before("fuse-in-proj")],
        reason: "they move or take the slices of x_proj",
    },
    Planned { pass: &FuseDtScan, order: &[After("fuse-dt-softplus")], reason: "takes the linear with its softplus" },
    Planned {
        pass: &FuseNormsScan,
        order: &[After("fuse-dt-norms"), After("fuse-dt-scan")],
        reason: "takes the split norm and the projecting scan",
    },
    Planned {
        pass: &FuseScanGate,
        order: &[Before("fuse-swiglu")],
        reason: "it takes any silu and mul, those of a scan too",
    },
    Planned {
        pass: &HoistSelectRows,
        order: &[After("fuse-scan-gate")],
        reason: "moves single ops: a scan would lose its gate",
    },
    Planned {
        pass: &FuseSwiglu,
        order: &[After("hoist-select-rows")],
        reason: "hoisting moves silu and mul, not a swiglu of experts",
    },
    Planned {
        pass: &FuseInProj,
        order: &[After("hoist-select-rows")],
        reason: "hoisting moves a linear and its slices, not a split linear",
    },
    Planned {
        pass: &FuseQkv,
        order: &[Before("fuse-kv-append")],
        reason: "it takes the attention that this pass starts from",
    },
    Planned { pass: &FuseGateUp, order: &[After("fuse-swiglu")], reason: "takes a swiglu of two linears" },
    Planned {
        pass: &FuseRouter,
        order: &[After("hoist-select-rows")],
        reason: "hoisting moves an unfused router only",
    },
    Planned { pass: &FuseExperts, order: &[After("fuse-swiglu")], reason: "takes a swiglu of two grouped linears" },
    Planned {
        pass: &FuseKvAppend,
        order: &[After("fuse-qkv")],
        reason: "takes the attention that fuse-qkv starts from",
    },
    Planned {
        pass: &FuseResidualNorm,
        order: &[After("hoist-select-rows")],
        reason: "hoisting moves a norm, not one fused with its sum",
    },
    Planned {
        pass: &FuseNormLinear,
        order: &[After("fuse-residual-norm"), After("fuse-in-proj"), After("fuse-qkv"), After("fuse-gate-up")],
        reason: "takes the norm of a sum, and the products of these fusions",
    },
    Planned { pass: &FuseProjConv, order: &[After("fuse-norm-linear")], reason: "takes the projection of a norm" },
];

/// Checks that a pipeline meets the constraints of its passes.
///
/// # Errors
/// The first violated constraint: `fuse-dt-scan runs before fuse-dt-softplus, expected after fuse-dt-softplus: …`.
pub fn check_order(pipeline: &[&Planned]) -> Result<(), String> {
    for (at, planned) in pipeline.iter().enumerate() {
        let name = planned.pass.name();
        for order in planned.order {
            let violated = |by: &str| Err(format!("{name} runs {by}, expected {order}: {}", planned.reason));
            let at_of = |other: &str| pipeline.iter().position(|planned| planned.pass.name() == other);
            match *order {
                First if at > 0 => return violated(&format!("after {}", pipeline[0].pass.name())),
                After(other) if at_of(other).is_some_and(|other| other > at) => {
                    return violated(&format!("before {other}"));
                }
                Before(other) if at_of(other).is_some_and(|other| other < at) => {
                    return violated(&format!("after {other}"));
                }
                First | After(_) | Before(_) => {}
            }
        }
    }
    Ok(())
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            First => f.write_str("first"),
            After(other) => write!(f, "after {other}"),
            Before(other) => write!(f, "before {other}"),
        }
    }
}

/// `fuse-dt-scan           after fuse-dt-softplus: takes the linear with its softplus`.
impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order: Vec<String> = self.order.iter().map(Order::to_string).collect();
        write!(f, "{:<22} {}: {}", self.pass.name(), order.join(", "), self.reason)
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    /// The pipeline with one pass moved to the place of another.
    fn moved(pass: &str, to: &str) -> Vec<&'static Planned> {
        let at = |name: &str| PIPELINE.iter().position(|planned| planned.pass.name() == name).unwrap();
        let mut order: Vec<&Planned> = PIPELINE.iter().collect();
        let planned = order.remove(at(pass));
        order.insert(at(to), planned);
        order
    }

    #[test]
    fn the_pipeline_meets_its_constraints() {
        assert_eq!(check_order(&PIPELINE.iter().collect::<Vec<_>>()), Ok(()));
    }

    #[test]
    fn constraints_name_passes() {
        let names: Vec<&str> = PIPELINE.iter().map(|planned| planned.pass.name()).collect();
        for order in PIPELINE.iter().flat_map(|planned| planned.order) {
            if let After(other) | Before(other) = order {
                assert!(names.contains(other), "{order}");
            }
        }
    }

    #[test]
    fn a_violated_order_is_reported() {
        let error = |pass, to| check_order(&moved(pass, to)).unwrap_err();
        expect!["fuse-dt-scan runs before fuse-dt-softplus, expected after fuse-dt-softplus: takes the linear with its softplus"]
            .assert_eq(&error("fuse-dt-scan", "fuse-dt-softplus"));
        expect!["fuse-conv-silu runs after fuse-scan-gate, expected before fuse-scan-gate: they take a silu, or move it away from its convolution"]
            .assert_eq(&error("fuse-conv-silu", "fuse-swiglu"));
        expect!["eliminate-dead runs after fuse-conv-silu, expected first: a dead reader keeps a value from being fused; fusions leave none"]
            .assert_eq(&error("fuse-conv-silu", "eliminate-dead"));
    }

    #[test]
    fn every_constraint_is_checked() {
        for planned in PIPELINE {
            let name = planned.pass.name();
            for order in planned.order {
                let violated = match *order {
                    First => moved(name, "fuse-conv-silu"),
                    After(other) | Before(other) => moved(name, other),
                };
                assert!(check_order(&violated).is_err(), "{name} {order}");
            }
        }
    }
}
