//! Steps: choice of the entry, launches, one upload of tables, one download of logits, and graphs.

use jamba_plan::graphs;
use jamba_plan::tables::DeviceTables;
use jamba_runtime::{DebugOptions, Feed, OpenOptions, Outputs};

use crate::fake::{Call, Fake, Launched};
use crate::plan::{LIMITS, LOGITS, MATRIX, ROW_STRIDE, SHARED_BYTES, Toy, VOCAB, WEIGHT, answers};
use crate::{answer, feed, open_with, prompt, toy};

const W: u32 = WEIGHT as u32;

fn each() -> OpenOptions<'static> {
    OpenOptions { debug: DebugOptions::LAUNCH_EACH, ..OpenOptions::default() }
}

fn checked() -> OpenOptions<'static> {
    OpenOptions { debug: DebugOptions::CHECK, ..OpenOptions::default() }
}

#[test]
fn any_chunking_gives_the_same() {
    let tokens = prompt(100, 1);
    for options in [OpenOptions::default(), each(), checked()] {
        let (mut engine, _) = toy(options);
        for chunk in [1, 7, 16, 24] {
            let sequence = engine.add_sequence().unwrap();
            let mut found = Vec::new();
            for tokens in tokens.chunks(chunk) {
                found.extend(answer(&mut engine, &[feed(sequence, tokens, Outputs::All)]));
            }
            assert_eq!(found, answers(&tokens, W), "chunks of {chunk}");
            engine.remove_sequence(sequence).unwrap();
        }
    }
}

#[test]
fn ragged_batches_join_and_leave() {
    for options in [OpenOptions::default(), each(), checked()] {
        let (mut engine, _) = toy(options);
        let (a, b, c) = (prompt(30, 1), prompt(20, 2), prompt(9, 3));
        let (wa, wb, wc) = (answers(&a, W), answers(&b, W), answers(&c, W));
        let first = engine.add_sequence().unwrap();
        let second = engine.add_sequence().unwrap();
        let feeds = [feed(second, &b[..5], Outputs::None), feed(first, &a[..17], Outputs::Last)];
        assert_eq!(answer(&mut engine, &feeds), [wa[16]]);
        let third = engine.add_sequence().unwrap();
        let feeds = [
            feed(first, &a[17..18], Outputs::Last),
            feed(third, &c, Outputs::All),
            feed(second, &b[5..], Outputs::Last),
        ];
        assert_eq!(answer(&mut engine, &feeds), [&[wa[17]], &wc[..], &[wb[19]]].concat());
        engine.remove_sequence(second).unwrap();
        // The slot and the pages of the removed sequence are reused.
        let fourth = engine.add_sequence().unwrap();
        let feeds = [feed(fourth, &b[..18], Outputs::Last), feed(first, &a[18..], Outputs::Last)];
        assert_eq!(answer(&mut engine, &feeds), [wb[17], wa[29]]);
        // All three decode.
        let feeds = [first, third, fourth].map(|id| feed(id, &[9], Outputs::Last));
        let (last, found) = (|tokens: &[u32]| answers(&[tokens, &[9]].concat(), W).pop(), answer(&mut engine, &feeds));
        let expected = [last(&a), last(&c), last(&b[..18])].map(Option::unwrap);
        assert_eq!(found, expected);
    }
}

#[test]
fn the_smallest_entry_that_decodes_runs_and_prompts_prefill() {
    let (mut engine, _) = toy(OpenOptions::default());
    let ids = [(); 3].map(|()| engine.add_sequence().unwrap());
    let numbers = |engine: &mut jamba_runtime::Engine, feeds: &[Feed<'_>]| {
        let rows: Vec<(f32, f32)> = engine.step(feeds).unwrap().rows().map(|row| (row[1], row[2])).collect();
        rows
    };
    let one = |id| feed(id, &[3], Outputs::Last);
    // The entries are 1 (prefill), 2 (decode one) and 3 (decode up to three); the other number is twice the number of rows.
    assert_eq!(numbers(&mut engine, &[one(ids[0])]), [(2.0, 2.0)]);
    assert_eq!(numbers(&mut engine, &[one(ids[0]), one(ids[1])]), [(3.0, 4.0); 2]);
    assert_eq!(numbers(&mut engine, &ids.map(one)), [(3.0, 6.0); 3]);
    assert_eq!(numbers(&mut engine, &[one(ids[0]), feed(ids[1], &[3, 4], Outputs::None)]), [(1.0, 2.0)]);
    // A prompt gives the same bits for any split, even if its last token is a step of its own.
    assert_eq!(engine.prefill(ids[0], &[5], None, None).unwrap().row(0)[1], 1.0);
    assert_eq!(engine.prefill(ids[0], &prompt(3, 1), Some(1), None).unwrap().row(0)[1], 1.0);
}

#[test]
fn a_step_is_one_copy_in_one_graph_and_one_copy_out() {
    let (mut engine, calls) = toy(OpenOptions::default());
    let id = engine.add_sequence().unwrap();
    let region = DeviceTables::of(&LIMITS, &Toy::new().program);
    let (tables, arena) = (calls.region("step tables").0, calls.region("arena").0);
    let of_pages = 28; // seven pages of i32
    let pages_at = 64 + 192 + 128 + 64 + 64 + 64 + 192; // ids, rows, …, sequence_of
    calls.take();

    engine.step(&[feed(id, &prompt(20, 1), Outputs::Last)]).unwrap();
    let first = calls.take();
    let names: Vec<_> = first.iter().map(Call::name).collect();
    let launches = ["launch"; 5];
    assert_eq!(names, [&["fill", "fill", "upload"], &launches[..], &["download"]].concat());
    let share = (region.tables_at + pages_at - 64 + of_pages) as usize;
    assert_eq!(first[2], Call::Upload(tables, share));
    assert_eq!(first.last(), Some(&Call::Download(arena + LOGITS, 4 * VOCAB as usize)));
    let words = calls.region("step tables").1;
    let counts: Vec<u64> = words.chunks(8).take(4).map(|w| u64::from_le_bytes(w.try_into().unwrap())).collect();
    assert_eq!((region.counts.len(), counts), (4, vec![20, 1, 1, 2])); // tokens, sequences, outputs, outputs · 2

    engine.step(&[feed(id, &prompt(12, 2), Outputs::All)]).unwrap();
    let second = calls.take();
    assert_eq!(second.last(), Some(&Call::Download(arena + LOGITS, (11 * ROW_STRIDE + 4 * VOCAB) as usize)));
    // A full chunk of one prompt has a graph, and so has every decode step.
    engine.step(&[feed(id, &prompt(40, 2), Outputs::None)]).unwrap();
    assert_eq!(calls.take_names(), ["fill", "fill", "fill", "upload", "replay"]);
    for _ in 0..2 {
        engine.step(&[feed(id, &[7], Outputs::Last)]).unwrap();
        assert_eq!(calls.take_names(), ["upload", "replay", "download"]);
    }
}

/// The graphs that are recorded are those whose memory the plan states, and no step records another one.
#[test]
fn graphs_are_recorded_when_the_plan_is_opened() {
    let (mut engine, calls) = open_with(Toy::new(), Fake::new(), OpenOptions::default()).unwrap();
    let recorded = graphs::all(&Toy::new().program.entries);
    // A full chunk, decode of one, two and three sequences.
    let sizes: Vec<[u64; 3]> = recorded.iter().map(|graph| [graph.tokens, graph.sequences, graph.outputs]).collect();
    assert_eq!(sizes, [[40, 1, 1], [1, 1, 1], [2, 2, 2], [3, 3, 3]]);
    let count = |names: &[&str], name: &str| names.iter().filter(|&&found| found == name).count();
    let opened = calls.take_names();
    assert_eq!((count(&opened, "end_capture"), count(&opened, "launch"), count(&opened, "replay")), (4, 20, 0));
    assert_eq!(engine.memory().graphs, 20 * graphs::LAUNCH_BYTES);
    let ids = [(); 3].map(|()| engine.add_sequence().unwrap());
    for count in [1, 2, 3, 1] {
        let feeds: Vec<_> = ids[..count].iter().map(|&id| feed(id, &[5], Outputs::Last)).collect();
        engine.step(&feeds).unwrap();
    }
    engine.step(&[feed(ids[0], &prompt(40, 1), Outputs::Last)]).unwrap();
    engine.step(&[feed(ids[0], &prompt(3, 1), Outputs::Last)]).unwrap();
    let stepped = calls.take_names();
    // Three tokens of one prompt are neither a decode step nor a full chunk.
    assert_eq!((count(&stepped, "end_capture"), count(&stepped, "replay"), count(&stepped, "launch")), (0, 5, 5));
}

#[test]
fn graphs_change_nothing_but_the_calls() {
    let run = |options: OpenOptions<'_>| {
        let (mut engine, calls) = toy(options);
        let ids = [engine.add_sequence().unwrap(), engine.add_sequence().unwrap()];
        let mut rows = Vec::new();
        for n in [19, 1, 1, 3, 30, 1] {
            let (a, b) = (prompt(n, 1), prompt(1, 2));
            let feeds = [feed(ids[0], &a, Outputs::Last), feed(ids[1], &b, Outputs::Last)];
            rows.extend(engine.step(&feeds).unwrap().rows().map(<[f32]>::to_vec).collect::<Vec<_>>());
        }
        (rows, calls)
    };
    let ((with, calls), (without, each_calls)) = (run(OpenOptions::default()), run(each()));
    assert!(with == without, "the same bits");
    let (with, without) = (calls.take_names(), each_calls.take_names());
    let count = |names: &[&str], name: &str| names.iter().filter(|&&found| found == name).count();
    // Decode steps have graphs; prompts of 20, 4 and 31 tokens are no full chunks.
    assert_eq!((count(&with, "begin_capture"), count(&with, "replay"), count(&with, "launch")), (0, 3, 15));
    assert_eq!((count(&without, "begin_capture"), count(&without, "replay"), count(&without, "launch")), (0, 0, 30));
    assert_eq!(count(&without, "synchronize"), 0);
}

#[test]
fn launches_are_those_of_the_rounded_size() {
    let (mut engine, calls) = toy(each());
    let id = engine.add_sequence().unwrap();
    let (tables, weights) = (calls.region("step tables").0, calls.region("weights").0);
    let (arena, state) = (calls.region("arena").0, calls.region("state pool").0);
    let region = DeviceTables::of(&LIMITS, &Toy::new().program);
    calls.take();
    engine.step(&[feed(id, &prompt(33, 1), Outputs::Last)]).unwrap();
    let launches = calls.take_launches();
    // 33 tokens are rounded to 40, the maximum of prefill: 2 · 40 / 4 blocks.
    let ids = tables + region.tables_at;
    let args = vec![ids, weights, arena, tables];
    assert_eq!(launches[0], Launched { kernel: 0, grid: [20, 1, 1], threads: 64, shared_bytes: 0, args });
    let starts = ids + 192 + 128;
    let args = vec![starts, starts + 128, state, arena, tables + 8, 128];
    let recur = Launched { kernel: 1, grid: [10, 2, 1], threads: 384, shared_bytes: SHARED_BYTES, args };
    assert_eq!(launches[1], recur); // one block for each of ten multiprocessors, twice
    // A tensor map is a parameter by value from a multiple of 64 bytes on; the fake driver's begins with the address.
    assert_eq!((launches[4].args[8], launches[4].args.len()), (weights + MATRIX, 8 + 16));
    assert_eq!((launches[4].args[3], launches[4].args[6]), (tables + 16, tables + 24));
}

#[test]
fn graphs_are_given_up_where_there_is_no_memory_for_them() {
    let fake = Fake::new();
    let calls = fake.calls();
    calls.fail("end_capture", 2, jamba_runtime::gpu::DriverError::OutOfMemory { wanted: 1, free: 0 });
    let (mut engine, calls) = open_with(Toy::new(), fake, OpenOptions::default()).unwrap();
    assert_eq!(calls.take_names().iter().filter(|&&name| name == "begin_capture").count(), 3);
    let ids = [engine.add_sequence().unwrap(), engine.add_sequence().unwrap()];
    let tokens = prompt(60, 1);
    let expected = answers(&tokens, W);
    for range in [0..20, 20..22, 22..23, 23..24, 24..43] {
        assert_eq!(
            answer(&mut engine, &[feed(ids[0], &tokens[range.clone()], Outputs::Last)]),
            [expected[range.end - 1]]
        );
    }
    // Decode of one has a graph, decode of two has none.
    calls.take();
    engine.step(&[feed(ids[0], &[7], Outputs::None)]).unwrap();
    assert!(calls.take_names().contains(&"replay"));
    engine.step(&ids.map(|id| feed(id, &[7], Outputs::None))).unwrap();
    assert!(calls.take_names().contains(&"launch"));
}

#[test]
fn traced_steps_run_alone() {
    let (mut engine, calls) = toy(OpenOptions::default());
    let id = engine.add_sequence().unwrap();
    engine.set_trace(true);
    calls.take();
    engine.step(&[feed(id, &prompt(20, 1), Outputs::Last)]).unwrap();
    let names = calls.take_names();
    let alone = ["launch", "synchronize"].repeat(5);
    assert_eq!(names, [&["fill", "fill", "upload", "synchronize"], &alone[..], &["download"]].concat());
    let trace = engine.trace().unwrap();
    assert_eq!((trace.runs().len(), trace.steps().len()), (1, 5));
    engine.set_trace(false);
    engine.step(&[feed(id, &prompt(20, 1), Outputs::Last)]).unwrap();
    assert!(!calls.take_names().contains(&"synchronize"));
}
