//! The engine with a toy model: batches, chunks, threads, pools and errors.

#[expect(dead_code, reason = "other tests use the rest")]
mod fixture;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use fixture::{LIMITS, Toy, VOCAB, WEIGHT, answers};
use jamba_plan::PlanError;
use jamba_plan::format::Init;
use jamba_plan::sections::SectionKind;
use jamba_runtime::{
    DebugOptions, Engine, Exposed, Feed, Finish, GenerateOptions, OpenOptions, Outputs, PlanFile, Pool, RuntimeError,
    SequenceId, SigningKey, TrustedKeys, Verify,
};
use ssh_key::private::Ed25519Keypair;
use ssh_key::{LineEnding, PrivateKey};

const W: u32 = WEIGHT as u32;

fn open(path: &Path, threads: usize) -> Engine {
    Engine::open(path, OpenOptions { threads: Some(threads), ..OpenOptions::default() }).unwrap()
}

/// An engine with this many threads, and the folder of its plan.
fn toy(threads: usize) -> (tempfile::TempDir, Engine) {
    let folder = tempfile::tempdir().unwrap();
    let path = Toy::new().write(folder.path(), "toy.plan");
    let engine = open(&path, threads);
    (folder, engine)
}

/// `n` tokens that depend on `salt`.
fn prompt(n: usize, salt: u32) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 37 + salt * 101 + i * i) % VOCAB as u32).collect()
}

fn feed<'a>(sequence: SequenceId, tokens: &'a [u32], outputs: Outputs) -> Feed<'a> {
    Feed { sequence, tokens, outputs }
}

/// The first logit of every row, which is the toy model's result.
fn answer(engine: &mut Engine, feeds: &[Feed<'_>]) -> Vec<f32> {
    engine.step(feeds).unwrap().rows().map(|row| row[0]).collect()
}

#[test]
fn any_chunking_and_any_number_of_threads_give_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = Toy::new().write(folder.path(), "toy.plan");
    let tokens = prompt(100, 1);
    for threads in [1, 2, 3] {
        let mut engine = open(&path, threads);
        for chunk in [1, 7, 16, 24] {
            let sequence = engine.add_sequence().unwrap();
            let mut found = Vec::new();
            for tokens in tokens.chunks(chunk) {
                found.extend(answer(&mut engine, &[feed(sequence, tokens, Outputs::All)]));
            }
            assert_eq!(found, answers(&tokens, W), "{threads} threads, chunks of {chunk}");
            engine.remove_sequence(sequence).unwrap();
        }
    }
}

#[test]
fn ragged_batches_join_and_leave() {
    let (_folder, mut engine) = toy(2);
    let (a, b, c) = (prompt(30, 1), prompt(20, 2), prompt(9, 3));
    let (wa, wb, wc) = (answers(&a, W), answers(&b, W), answers(&c, W));
    let first = engine.add_sequence().unwrap();
    let second = engine.add_sequence().unwrap();
    let feeds = [feed(second, &b[..5], Outputs::None), feed(first, &a[..17], Outputs::Last)];
    assert_eq!(answer(&mut engine, &feeds), [wa[16]]);
    let third = engine.add_sequence().unwrap();
    let feeds =
        [feed(first, &a[17..18], Outputs::Last), feed(third, &c, Outputs::All), feed(second, &b[5..], Outputs::Last)];
    assert_eq!(answer(&mut engine, &feeds), [&[wa[17]], &wc[..], &[wb[19]]].concat());
    engine.remove_sequence(second).unwrap();
    // The slot and the pages of the removed sequence are reused.
    let fourth = engine.add_sequence().unwrap();
    let feeds = [feed(fourth, &b[..18], Outputs::Last), feed(first, &a[18..], Outputs::Last)];
    assert_eq!(answer(&mut engine, &feeds), [wb[17], wa[29]]);
    assert_eq!(engine.len(first).unwrap(), 30);
}

#[test]
fn single_tokens_take_the_decode_entry_where_they_fit() {
    let (_folder, mut engine) = toy(2);
    let ids: Vec<SequenceId> = (0..3).map(|_| engine.add_sequence().unwrap()).collect();
    let entry_and_outputs = |engine: &mut Engine, feeds: &[Feed<'_>]| {
        let logits = engine.step(feeds).unwrap();
        (logits.row(0)[1], logits.row(0)[2])
    };
    let one = |outputs| ids.iter().map(|&id| feed(id, &[9], outputs)).collect::<Vec<_>>();
    let mut two_rows = one(Outputs::Last);
    two_rows[1].outputs = Outputs::None;
    assert_eq!(entry_and_outputs(&mut engine, &two_rows), (2.0, 4.0));
    // The decode entry of this plan returns at most two rows.
    assert_eq!(entry_and_outputs(&mut engine, &one(Outputs::Last)), (1.0, 6.0));
    assert_eq!(entry_and_outputs(&mut engine, &[feed(ids[0], &[9, 9], Outputs::Last)]), (1.0, 2.0));
}

#[test]
fn refusals_disturb_nobody() {
    let (_folder, mut engine) = toy(1);
    let tokens = prompt(100, 4);
    let expected = answers(&tokens, W);
    let id = engine.add_sequence().unwrap();
    let other = engine.add_sequence().unwrap();
    assert_eq!(answer(&mut engine, &[feed(id, &tokens[..20], Outputs::Last)]), [expected[19]]);
    let gone = engine.add_sequence().unwrap();
    engine.remove_sequence(gone).unwrap();
    let long = [0; 41];
    type Expected = fn(&RuntimeError) -> bool;
    let cases: [(&[Feed<'_>], Expected); 8] = [
        (&[], |error| matches!(error, RuntimeError::NoTokens)),
        (&[feed(id, &[], Outputs::Last)], |error| matches!(error, RuntimeError::NoTokens)),
        (&[feed(gone, &[1], Outputs::Last)], |error| matches!(error, RuntimeError::UnknownSequence(_))),
        (&[feed(id, &[1], Outputs::Last), feed(id, &[2], Outputs::Last)], |error| {
            matches!(error, RuntimeError::SequenceTwice(_))
        }),
        (&[feed(other, &[1], Outputs::Last), feed(id, &[1, 300], Outputs::Last)], |error| {
            matches!(error, RuntimeError::TokenOutOfRange { token: 300, vocab: VOCAB })
        }),
        (&[feed(id, &[0; 81], Outputs::Last)], |error| {
            matches!(error, RuntimeError::ContextFull { wanted: 101, max_context: 100 })
        }),
        (&[feed(id, &long, Outputs::Last)], |error| {
            matches!(error, RuntimeError::StepTooLarge { what: "tokens", found: 41, most: 40 })
        }),
        (&[feed(id, &long[..25], Outputs::All)], |error| {
            matches!(error, RuntimeError::StepTooLarge { what: "rows of logits", found: 25, most: 24 })
        }),
    ];
    for (feeds, expected) in cases {
        let error = engine.step(feeds).map(|_| ()).unwrap_err();
        assert!(expected(&error), "{error}");
        assert!(!error.is_ours());
    }
    assert_eq!((engine.len(id).unwrap(), engine.len(other).unwrap()), (20, 0));
    assert_eq!(answer(&mut engine, &[feed(id, &tokens[20..40], Outputs::Last)]), [expected[39]]);
}

#[test]
fn pools_end_exactly_where_the_plan_says() {
    let (_folder, mut engine) = toy(1);
    let pages = LIMITS.kv_tokens / 16; // 10
    assert_eq!(engine.free(), (3, pages));
    let ids: Vec<SequenceId> = (0..3).map(|_| engine.add_sequence().unwrap()).collect();
    let full = engine.add_sequence().unwrap_err();
    assert!(matches!(full, RuntimeError::PoolExhausted { pool: Pool::State, wanted: 1, free: 0 }), "{full}");
    engine.prefill(ids[0], &prompt(96, 1), None, None).unwrap();
    engine.prefill(ids[1], &prompt(49, 2), None, None).unwrap();
    assert_eq!(engine.free(), (0, 0));
    let full = engine.step(&[feed(ids[2], &[1], Outputs::Last)]).map(|_| ()).unwrap_err();
    assert!(matches!(full, RuntimeError::PoolExhausted { pool: Pool::Kv, wanted: 1, free: 0 }), "{full}");
    // The last page is partially filled.
    let more = prompt(64, 2);
    let row = answer(&mut engine, &[feed(ids[1], &more[49..], Outputs::Last)]);
    assert_eq!(row, answers(&more, W)[63..]);
    assert!(engine.prefill(ids[1], &[1], None, None).is_err());
    engine.remove_sequence(ids[0]).unwrap();
    assert_eq!(engine.free(), (1, 6));
    engine.prefill(ids[1], &[1], None, None).unwrap();
}

#[test]
fn prefill_refuses_before_its_first_chunk() {
    let (_folder, mut engine) = toy(1);
    let id = engine.add_sequence().unwrap();
    let mut tokens = prompt(90, 5);
    tokens[80] = 1000;
    assert!(matches!(
        engine.prefill(id, &tokens, Some(8), None),
        Err(RuntimeError::TokenOutOfRange { token: 1000, .. })
    ));
    assert_eq!(engine.len(id).unwrap(), 0);
    let logits = engine.prefill(id, &tokens[..80], Some(8), None).unwrap();
    assert_eq!(logits.row(0)[0], answers(&tokens[..80], W)[79]);
}

#[test]
fn prefill_tells_how_far_it_is() {
    let (_folder, mut engine) = toy(1);
    let (sender, receiver) = std::sync::mpsc::channel();
    engine.on_prefill(move |progress| sender.send(progress).unwrap());
    let id = engine.add_sequence().unwrap();
    engine.prefill(id, &prompt(20, 1), Some(8), None).unwrap();
    engine.prefill(id, &[1], Some(8), None).unwrap();
    let told: Vec<(u64, u64)> = receiver.try_iter().map(|progress| (progress.done, progress.total)).collect();
    assert_eq!(told, [(0, 20), (8, 20), (16, 20), (20, 20), (0, 1), (1, 1)]);
}

#[test]
fn two_plans_keep_their_code_apart() {
    let folder = tempfile::tempdir().unwrap();
    let one = Toy::new().write(folder.path(), "one.plan");
    let two = Toy { defines: "#define FACTOR 5", ..Toy::new() }.write(folder.path(), "two.plan");
    for _ in 0..2 {
        let (mut first, mut second) = (open(&one, 1), open(&two, 1));
        let run = |engine: &mut Engine| {
            let id = engine.add_sequence().unwrap();
            answer(engine, &[feed(id, &[10, 20], Outputs::Last)])
        };
        assert_eq!(run(&mut first), answers(&[10, 20], W)[1..]);
        assert_ne!(run(&mut second), answers(&[10, 20], W)[1..]);
        drop(first);
        assert_eq!(run(&mut open(&one, 1)), answers(&[10, 20], W)[1..]);
    }
}

#[test]
fn synthetic_weights_are_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let mut toy = Toy::new();
    toy.manifest.synthetic_seed = Some(9);
    assert!(matches!(toy.program.weights[0].parts[0].init, Init::Uniform { low: 7.0, .. }));
    let path = toy.write(folder.path(), "synthetic.plan");
    let mut engine = open(&path, 2);
    let id = engine.add_sequence().unwrap();
    assert_eq!(answer(&mut engine, &[feed(id, &[3, 4], Outputs::All)]), answers(&[3, 4], 7));
}

#[test]
fn a_write_outside_the_arena_is_found_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = Toy::new().overrun().write(folder.path(), "overrun.plan");
    for threads in [1, 2] {
        let options = OpenOptions { threads: Some(threads), debug: DebugOptions::CHECK, ..OpenOptions::default() };
        let mut engine = Engine::open(&path, options).unwrap();
        let id = engine.add_sequence().unwrap();
        let error = engine.step(&[feed(id, &[1, 2], Outputs::Last)]).map(|_| ()).unwrap_err();
        assert!(error.is_ours());
        let text = error.to_string();
        assert!(text.contains("step 2 (overrun, layers.7.culprit)") && text.ends_with("the arena"), "{text}");
    }
    // A correct plan passes.
    let path = Toy::new().write(folder.path(), "sound.plan");
    let mut engine = Engine::open(&path, OpenOptions { debug: DebugOptions::CHECK, ..OpenOptions::default() }).unwrap();
    let id = engine.add_sequence().unwrap();
    assert_eq!(answer(&mut engine, &[feed(id, &[1], Outputs::Last)]), answers(&[1], W));
}

#[test]
fn generation_ends_for_its_reasons() {
    let (_folder, mut engine) = toy(2);
    let options = |max_new| GenerateOptions { max_new, ..GenerateOptions::default() };
    let go_on = |_| std::ops::ControlFlow::Continue(());
    // The toy model's largest logit is that of token 0, an end token.
    let generated = engine.generate(&[5, 6], &options(10), go_on).unwrap();
    assert_eq!((generated.tokens, generated.finish), (vec![0], Finish::Eos));
    let on = GenerateOptions { ignore_eos: true, ..options(10) };
    let generated = engine.generate(&[5, 6], &on, go_on).unwrap();
    assert_eq!((generated.tokens.len(), generated.decode_steps, generated.finish), (10, 9, Finish::Length));
    let on = GenerateOptions { ignore_eos: true, ..options(500) };
    let generated = engine.generate(&[5, 6], &on, go_on).unwrap();
    // The context is 100 tokens; the last new token needs no room.
    assert_eq!((generated.tokens.len(), generated.finish), (99, Finish::NoRoom));
    let generated = engine.generate(&[5, 6], &on, |_| std::ops::ControlFlow::Break(())).unwrap();
    assert_eq!((generated.tokens.len(), generated.finish), (1, Finish::Stopped));
    assert_eq!(engine.free(), (3, 10));
}

#[test]
fn a_trace_has_every_step_of_every_run() {
    let (_folder, mut engine) = toy(2);
    let id = engine.add_sequence().unwrap();
    engine.set_trace(true);
    answer(&mut engine, &[feed(id, &[1, 2, 3], Outputs::Last)]);
    answer(&mut engine, &[feed(id, &[1], Outputs::Last)]);
    let steps: Vec<usize> = engine.trace().unwrap().steps().iter().map(|step| step.step).collect();
    assert_eq!(steps, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]);
}

fn refusal(path: &Path, options: OpenOptions<'_>) -> RuntimeError {
    Engine::open(path, options).map(|_| ()).expect_err("the plan must be refused")
}

#[test]
fn plans_that_cannot_run_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = Toy { targets: vec!["aarch64"], ..Toy::new() }.write(folder.path(), "other.plan");
    assert!(matches!(refusal(&path, OpenOptions::default()), RuntimeError::NoCodeForCpu { .. }));
    let wanted = OpenOptions { isa: Some("x86-64-v3".to_owned()), ..OpenOptions::default() };
    assert!(matches!(refusal(&path, wanted), RuntimeError::NoSuchTarget { .. }));

    let mut toy = Toy::new();
    toy.program.kernels[3].symbol = "attend_not_there".to_owned();
    let path = toy.write(folder.path(), "symbol.plan");
    let error = refusal(&path, OpenOptions::default());
    assert!(error.is_ours() && error.to_string().contains("attend_not_there"), "{error}");

    let path = Toy::new().write(folder.path(), "toy.plan");
    let threads = OpenOptions { threads: Some(0), ..OpenOptions::default() };
    assert!(matches!(refusal(&path, threads), RuntimeError::Option { name: "threads", .. }));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[5000] ^= 1;
    let path = folder.path().join("damaged.plan");
    std::fs::write(&path, bytes).unwrap();
    let error = refusal(&path, OpenOptions::default());
    assert!(
        matches!(&error, RuntimeError::Plan { source: PlanError::Digest { section, .. }, .. } if section == "section table")
    );
    assert!(error.to_string().contains("damaged.plan"));

    for missing in [folder.path().join("no.plan"), folder.path().to_path_buf()] {
        assert!(matches!(refusal(&missing, OpenOptions::default()), RuntimeError::Io { .. }));
    }
}

#[test]
fn texts_that_the_plan_lacks_are_refused_by_name() {
    let (_folder, engine) = toy(1);
    assert!(matches!(engine.tokenizer().map(|_| ()), Err(RuntimeError::NoSection("tokenizer"))));
    assert!(matches!(engine.chat_template().map(|_| ()), Err(RuntimeError::NoSection("chat template"))));
}

#[test]
fn an_engine_may_move_between_threads() {
    let (_folder, mut engine) = toy(2);
    let found = std::thread::spawn(move || {
        let id = engine.add_sequence().unwrap();
        answer(&mut engine, &[feed(id, &[1, 2], Outputs::Last)])
    });
    assert_eq!(found.join().unwrap(), answers(&[1, 2], W)[1..]);
}

/// The runtime maps code itself. What a loader would have to do more for is refused by name.
#[test]
fn code_that_needs_anything_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (defines, reason) in [
        ("extern int getpid(void); int more(void) { return getpid(); }", "imports getpid"),
        (
            "static volatile int begun; __attribute__((constructor)) static void begin(void) { begun = 1; }",
            "initializer",
        ),
        ("static int zero; int *pointer = &zero;", "relocations"),
        ("__thread int own; int more(void) { return own; }", "imports __tls_get_addr"),
        ("#define embed renamed", "has no function embed"),
        ("int embed; \n#define embed renamed", "has no function embed"),
    ] {
        let path = Toy { defines, ..Toy::new() }.write(folder.path(), "toy.plan");
        let error = Engine::open(&path, OpenOptions::default()).err().expect(defines).to_string();
        assert!(error.contains("code/x86-64") && error.contains(reason), "{defines}: {error}");
    }
}

#[test]
fn only_a_plan_that_a_trusted_key_signed_opens() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let path = Toy::new().write(folder.path(), "toy.plan");
    let keys = |seed: u8| {
        let key = PrivateKey::from(Ed25519Keypair::from_seed(&[seed; 32]));
        std::fs::write(at("key"), key.to_openssh(LineEnding::LF).unwrap().as_bytes()).unwrap();
        std::fs::write(at("keys"), key.public_key().to_openssh().unwrap()).unwrap();
        (SigningKey::read(&at("key")).unwrap(), TrustedKeys::read(&at("keys")).unwrap())
    };
    let (mine, trusted) = keys(1);
    let open = |plan: &Path, isa: Option<&str>| {
        let isa = isa.map(str::to_owned);
        let options = OpenOptions { trusted_keys: Some(trusted.clone()), isa, ..OpenOptions::default() };
        Engine::open(plan, options)
    };
    // The plan's code is not looked at before: its target would be refused.
    let refused = |plan: &Path, says: &str| match open(plan, Some("z80")) {
        Err(error @ RuntimeError::Signature { .. }) => assert!(error.to_string().contains(says), "{error}"),
        other => panic!("{:?}", other.map(|engine| engine.plan_digest())),
    };
    refused(&path, "the plan is not signed");
    let digest = Engine::open(&path, OpenOptions::default()).unwrap().plan_digest();
    std::fs::write(at("toy.plan.sig"), mine.sign(digest).unwrap()).unwrap();
    assert_eq!(open(&path, None).unwrap().plan_digest(), digest);
    let unchecked =
        OpenOptions { trusted_keys: Some(trusted.clone()), verify: Verify::AllButWeights, ..OpenOptions::default() };
    let error = Engine::open(&path, unchecked).err().expect("a signature covers the weights");
    assert!(matches!(error, RuntimeError::Option { name: "verify", .. }), "{error}");
    let other = Toy { targets: vec!["x86-64"], ..Toy::new() }.write(folder.path(), "other.plan");
    std::fs::copy(at("toy.plan.sig"), at("other.plan.sig")).unwrap();
    refused(&other, "is no signature of the plan with the digest");
    std::fs::write(at("toy.plan.sig"), keys(2).0.sign(digest).unwrap()).unwrap();
    refused(&path, "which is not in");
}

#[test]
fn a_plan_that_changes_after_it_was_opened_is_used_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = Toy::new().write(folder.path(), "toy.plan");
    let whole = std::fs::read(&path).unwrap();
    let file = PlanFile::open(&path).unwrap();
    let plan = file.plan(Verify::Everything, &mut |_, _| ()).unwrap();
    let weights = plan.sections().iter().find(|section| section.kind == SectionKind::Weights.code()).unwrap();
    let weights = weights.offset as usize..weights.next_offset().unwrap() as usize;
    // In place, as no tool of this project writes: everything but the weights is another copy.
    let mut changed = whole.clone();
    for (at, byte) in changed.iter_mut().enumerate() {
        *byte ^= if weights.contains(&at) { 0 } else { 0xff };
    }
    std::fs::write(&path, &changed).unwrap();
    let again = file.plan(Verify::Everything, &mut |_, _| ()).unwrap();
    assert_eq!(again.digest(), plan.digest());
    for section in plan.sections().iter().filter(|section| section.kind != SectionKind::Weights.code()) {
        assert_eq!(again.bytes_of(section), &whole[section.offset as usize..][..section.bytes as usize]);
    }
    // Cut before the weights: only they are gone.
    let engine = {
        std::fs::write(&path, &whole).unwrap();
        Engine::open(&path, OpenOptions::default()).unwrap()
    };
    std::fs::File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
    assert_eq!(engine.manifest(), plan.manifest());
    for section in plan.sections().iter().filter(|section| section.kind != SectionKind::Weights.code()) {
        assert_eq!(again.bytes_of(section), &whole[section.offset as usize..][..section.bytes as usize]);
    }
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for path in [&fifo, Path::new("/dev/zero"), folder.path()] {
        let error = PlanFile::open(path).unwrap_err().to_string();
        assert!(error.contains("it is not a file"), "{error}");
    }
}

#[test]
fn only_the_required_plan_opens() {
    let folder = tempfile::tempdir().unwrap();
    let path = Toy::new().write(folder.path(), "toy.plan");
    let open = |require_digest| Engine::open(&path, OpenOptions { require_digest, ..OpenOptions::default() });
    let digest = open(None).unwrap().plan_digest();
    assert_eq!(open(Some(digest)).unwrap().plan_digest(), digest);
    // Other writers could change the weights after verification.
    std::fs::set_permissions(&path, Permissions::from_mode(0o664)).unwrap();
    assert!(matches!(open(Some(digest)), Err(RuntimeError::Exposed { exposed: Exposed::ToGroup, .. })));
    assert_eq!(open(None).unwrap().plan_digest(), digest);
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    // The plan's code is not looked at: it would be refused for its target.
    let other = Toy { targets: vec!["x86-64"], ..Toy::new() }.write(folder.path(), "other.plan");
    let isa = Some("x86-64-v2".to_owned());
    let options = OpenOptions { require_digest: Some(digest), isa, ..OpenOptions::default() };
    match Engine::open(&other, options) {
        Err(RuntimeError::DigestRequired { found, expected, .. }) => assert!(found != digest && expected == digest),
        other => panic!("{:?}", other.map(|engine| engine.plan_digest())),
    }
}
