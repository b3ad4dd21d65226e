//! `jamba verify`: checks every byte of a plan against its digests.

use jamba_plan::text::size;
use jamba_runtime::{PlanFile, Progress, Unit, Verify};
use serde_json::json;

use crate::checkpoint::check_plan;
use crate::failure::{Failure, phase, print, print_json};
use crate::open::{Bar, PlanArg};

/// Arguments of `jamba verify`.
///
/// A plan that is undamaged may still be a stranger's program. `jambac verify --code` compares its kernels with jambac's own.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    plan: PlanArg,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Verifies a plan.
pub(crate) fn verify(args: Args) -> Result<(), Failure> {
    phase("verify");
    check_plan(args.plan.only()?)?;
    let file = PlanFile::open(args.plan.path())?;
    let bar = Bar::new();
    let plan = file.plan(Verify::Everything, &mut |done, total| {
        bar.tell(Progress { what: "checking", done, total, unit: Unit::Bytes })
    })?;
    drop(bar);
    let (digest, bytes) = (plan.digest().to_hex(), plan.header().file_bytes);
    if args.json {
        return print_json(&json!({ "ok": true, "bytes": bytes, "digest": digest.as_str() }));
    }
    let path = args.plan.path().display();
    print(&format!(
        "{path}: undamaged, {}, {digest}\nThis says nothing about who made it. A plan is a program: run only plans whose origin you trust.\n",
        size(bytes)
    ))
}
