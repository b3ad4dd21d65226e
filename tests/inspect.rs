//! `jambac inspect` reports what the plan holds: fusions reduce the work, and the arena map is the schedule's.

use std::path::Path;

use jamba_plan::Plan;
use jambac::compile::{Progress, Request, build};
use jambac::inspect::{drawing, memory, work};
use jambac::manifest::ModelFile;
use jambac_models::tiny::Tiny;

/// A plan, in bytes, of a miniature model with every kind of layer.
fn plan(folder: &Path, fusion: &str) -> Vec<u8> {
    let checkpoint = folder.join("miniature");
    Tiny::base().write(&checkpoint, 1).unwrap();
    let mut model = ModelFile::open(&checkpoint).unwrap();
    model.build.fusion = fusion.parse().unwrap();
    model.limits.max_context = 64;
    model.limits.prefill_chunk = 8;
    let output = folder.join(format!("{fusion}.plan"));
    let request = Request::new(model, output.clone());
    build(&request, &Progress::hidden()).unwrap();
    std::fs::read(output).unwrap()
}

#[test]
fn fusions_leave_less_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let (fused, unfused) = (plan(folder.path(), "all"), plan(folder.path(), "none"));
    let (fused, unfused) = (Plan::parse(&fused).unwrap(), Plan::parse(&unfused).unwrap());
    for (after, before) in fused.first().1.entries.iter().zip(&unfused.first().1.entries) {
        let (new, old) = (work::total(after), work::total(before));
        assert!(new.steps < old.steps && new.barriers < old.barriers && new.bytes < old.bytes, "{new:?} {old:?}");
        assert_eq!(new.steps, after.steps.len());
        let kinds = work::by_kind(fused.first().1, after);
        assert_eq!(kinds.values().map(|kind| kind.steps).sum::<usize>(), new.steps);
    }
    let table = work::compare(unfused.first().1, fused.first().1);
    let all: Vec<&str> = table.lines().filter(|line| line.trim_start().starts_with("all ")).collect();
    assert_eq!(all.len(), 2, "{table}");
}

#[test]
fn the_map_has_every_buffer_where_the_schedule_put_it() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = plan(folder.path(), "all");
    let plan = Plan::parse(&bytes).unwrap();
    let (program, arena) = (plan.first().1, plan.first().0.memory.arena);
    let most = program.entries.iter().map(memory::arena_bytes).max().unwrap();
    assert_eq!(most.next_multiple_of(64), arena);
    let n_buffers: usize = program.entries.iter().map(|entry| entry.buffers.len()).sum();
    for entry in &program.entries {
        assert!(memory::peak_live_bytes(entry) <= memory::arena_bytes(entry));
        for (index, a) in entry.buffers.iter().enumerate() {
            for b in &entry.buffers[..index] {
                let meet = a.first <= b.last
                    && b.first <= a.last
                    && a.offset < b.offset + b.bytes
                    && b.offset < a.offset + a.bytes;
                let over = |x: &jamba_plan::format::Buffer, y: &jamba_plan::format::Buffer| {
                    x.in_place_of.is_some_and(|other| entry.buffers[other as usize] == *y)
                };
                assert!(!meet || over(a, b) || over(b, a), "{a:?} {b:?}");
            }
        }
    }
    let table = memory::table(program);
    assert_eq!(
        table.lines().filter(|line| line.trim_start().starts_with('b') && line.contains(" of ")).count(),
        n_buffers
    );
    let drawing = drawing::program(program);
    assert_eq!(drawing.matches("<title>").count(), n_buffers);
    assert_eq!(drawing.matches("class=\"live\"").count(), program.entries.len());
}
