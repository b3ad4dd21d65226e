//! examples/toy.plan, which the examples and the documentation's tests open: what the fixture writes today, so that it
//! follows the format. `UPDATE_EXPECT=1 cargo test --release -p jamba-runtime --test api committed` writes it anew.

use std::path::Path;

use jamba_plan::Plan;
use jamba_plan::sections::SectionKind;

use crate::fixture::Toy;

const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/toy.plan");

#[test]
fn the_committed_plan_is_the_fixtures() {
    let folder = tempfile::tempdir().unwrap();
    let written = Toy::with_text().write(folder.path(), "toy.plan");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::copy(&written, COMMITTED).unwrap();
    }
    let stale = "examples/toy.plan is not what tests/fixture writes: run this test with UPDATE_EXPECT=1";
    let (committed, written) = [Path::new(COMMITTED), &written].map(|path| std::fs::read(path).unwrap()).into();
    let (committed, written) = (Plan::parse(&committed).expect(stale), Plan::parse(&written).unwrap());
    assert_eq!(committed.manifest(), written.manifest(), "{stale}");
    assert_eq!(committed.first().1, written.first().1, "{stale}");
    // The code comes from the C compiler and differs between machines.
    let names = |plan: &Plan<'_>| plan.sections().iter().map(|section| section.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&committed), names(&written), "{stale}");
    for kind in written.sections().iter().filter_map(|section| SectionKind::from_code(section.kind)) {
        let same = kind == SectionKind::Code || committed.section(kind) == written.section(kind);
        assert!(same, "{stale}: {}", kind.name());
    }
}
