//! Plans and saved states with the right digests: what is left to find behind the digests.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use jamba_plan::format::{Arg, Manifest, Program, ProgramInfo};
use jamba_plan::header::{HEADER_BYTES, Header};
use jamba_plan::sections::{self, FIRST_SECTION, Section, SectionKind, TABLE_BYTES};
use jamba_plan::synthetic::{DrawnRows, fill_panels};
use jamba_plan::{Plan, frame as frame_of, text};
use jamba_runtime::{ConstraintLimits, Engine, Feed, OpenOptions, Outputs, PlanFile};
use serde_json::Value;

use crate::mutate::edits;

/// A sound plan for CPUs.
pub(crate) const TOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../runtime/examples/toy.plan");

/// Bytes of states behind their header.
const STATE_HEADER: usize = 192;

fn toy() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| std::fs::read(TOY).expect("the toy's plan"))
}

/// The same with a byte of code and of each text: what reads plans looks at their digests only, and shorter ones take less time.
fn short() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let kept = [SectionKind::Manifest, SectionKind::Program, SectionKind::Weights].map(SectionKind::code);
    BYTES.get_or_init(|| {
        changed(toy(), |kind, bytes| {
            if !kept.contains(&kind) {
                bytes.truncate(1);
            }
        })
    })
}

/// The same with one step, from tokens to logits: where the frame is what changes, most inputs need not read more.
fn smallest() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let plan = Plan::parse(short()).expect("a sound plan");
        let mut program = plan.first().1.clone();
        let logits = program.kernels[4].operands[2].clone();
        program.kernels.truncate(1);
        program.kernels[0].operands[2] = logits;
        for entry in &mut program.entries {
            entry.steps.truncate(1);
            entry.steps[0].args[2] = Arg::Arena(entry.logits.offset);
            entry.buffers.retain(|buffer| buffer.offset == entry.logits.offset);
            entry.buffers.iter_mut().for_each(|buffer| (buffer.first, buffer.last) = (0, 0));
        }
        let program = postcard::to_stdvec(&program).expect("memory");
        let small = changed(short(), |kind, bytes| {
            if kind == SectionKind::Program.code() {
                bytes.clone_from(&program);
            }
        });
        Plan::parse(&small).expect("a sound plan");
        small
    })
}

/// An engine with the sound plan. Constraints have a tenth of the limits, so that they reach them sooner.
pub(crate) fn engine() -> &'static Mutex<Engine> {
    static ENGINE: OnceLock<Mutex<Engine>> = OnceLock::new();
    let (time, constraints) = (Duration::from_millis(500), ConstraintLimits::default());
    let constraints =
        ConstraintLimits { time, fuel: constraints.fuel / 10, states: constraints.states / 10, ..constraints };
    let open = || Engine::open(TOY, OpenOptions { threads: Some(1), constraints, ..OpenOptions::default() });
    ENGINE.get_or_init(|| Mutex::new(open().expect("the toy's plan opens")))
}

/// Some edits of nothing in particular.
pub fn no_edits() -> Vec<Vec<u8>> {
    (1..4).map(|n| vec![0; 13 * n]).collect()
}

/// A file of sections with these contents, whose digests and offsets are right.
fn assembled(sound: &[u8], contents: &[(u32, &str, Vec<u8>)]) -> Vec<u8> {
    let mut file = vec![0; FIRST_SECTION as usize];
    let mut records = Vec::new();
    for (kind, name, bytes) in contents {
        let offset = file.len() as u64;
        let section = Section {
            kind: *kind,
            name: (*name).to_owned(),
            offset,
            bytes: bytes.len() as u64,
            digest: blake3::hash(bytes),
        };
        file.extend(bytes);
        file.resize(section.next_offset().unwrap_or_default() as usize, 0);
        records.push(section);
    }
    let table = sections::encode(&records);
    file[HEADER_BYTES..HEADER_BYTES + TABLE_BYTES].copy_from_slice(&table);
    let header = Header {
        file_bytes: file.len() as u64,
        n_sections: records.len() as u32,
        table_digest: *blake3::hash(&table).as_bytes(),
        ..Header::decode(sound).expect("a sound header")
    };
    file[..HEADER_BYTES].copy_from_slice(&header.encode());
    file
}

/// Parses a plan. One that is accepted can be printed, and its weights can be drawn.
fn parse(file: &[u8]) {
    let Ok(plan) = Plan::parse(file) else { return };
    let _ = text::plan(&plan);
    for (info, program) in plan.programs() {
        for weight in &program.weights {
            if weight.layout.groups * weight.parts.len() as u64 <= 1 << 12 {
                let _ = DrawnRows::of(weight, 1);
            }
            let panel = weight.layout.panel_bytes(weight.format);
            if panel <= 1 << 16 {
                fill_panels(weight, 1, weight.layout.panels().saturating_sub(1), &mut vec![0; panel]);
            }
            assert!(weight.offset + weight.bytes <= info.memory.weights, "{weight:?}");
        }
    }
}

/// Edits of the header and of the table, and of their digests.
pub fn frame(data: &[u8]) {
    let _ = Plan::parse(data);
    let mut file = smallest().to_vec();
    for (place, number) in edits(data) {
        let at = place % (FIRST_SECTION as usize - 8);
        file[at..at + 8].copy_from_slice(&number.to_le_bytes());
    }
    let table = blake3::hash(&file[HEADER_BYTES..HEADER_BYTES + TABLE_BYTES]);
    file[32..64].copy_from_slice(table.as_bytes());
    let header = blake3::hash(&file[..HEADER_BYTES - 32]);
    file[HEADER_BYTES - 32..HEADER_BYTES].copy_from_slice(header.as_bytes());
    parse(&file);
}

/// A sound plan whose sections were changed.
fn changed(sound: &[u8], change: impl Fn(u32, &mut Vec<u8>)) -> Vec<u8> {
    let sections = frame_of(sound, sound.len() as u64).expect("a sound plan");
    let content = |section: &Section| {
        let mut bytes = sound[section.offset as usize..][..section.bytes as usize].to_vec();
        change(section.kind, &mut bytes);
        bytes
    };
    let contents: Vec<_> =
        sections.iter().map(|section| (section.kind, section.name.as_str(), content(section))).collect();
    assembled(sound, &contents)
}

/// Edits of the bytes of the manifest and of the program.
pub fn sections(data: &[u8]) {
    parse(&changed(short(), |kind, bytes| {
        let is_edited = [SectionKind::Manifest.code(), SectionKind::Program.code()].contains(&kind);
        let n = bytes.len();
        for (place, number) in edits(data).filter(|_| is_edited && n > 0) {
            bytes[place % n] = number as u8;
        }
    }));
}

/// A sound plan, and its manifest and program as documents.
pub(crate) struct Sound {
    bytes: Vec<u8>,
    manifest: Value,
    program: Value,
}

impl Sound {
    /// # Panics
    /// If the plan is not sound.
    pub(crate) fn of(bytes: &[u8]) -> Sound {
        let plan = Plan::parse(bytes).expect("a sound plan");
        let (_, program) = plan.programs().next().expect("a program");
        let document = |result: serde_json::Result<Value>| result.expect("a document");
        Sound {
            manifest: document(serde_json::to_value(plan.manifest())),
            program: document(serde_json::to_value(program)),
            bytes: bytes.to_vec(),
        }
    }

    /// The plan with other numbers in the manifest and in the program, of which postcard makes other bytes.
    pub(crate) fn with_numbers(&self, edits: &[(usize, u64)]) -> Vec<u8> {
        self.with_numbers_outside(edits, "")
    }

    /// As [`Sound::with_numbers`], with this field of the program as it is.
    fn with_numbers_outside(&self, edits: &[(usize, u64)], field: &str) -> Vec<u8> {
        let (in_manifest, in_program): (Vec<_>, Vec<_>) = edits.iter().partition(|(place, _)| place % 4 == 0);
        let manifest = edited(&self.manifest, &in_manifest);
        let manifest = serde_json::from_value::<Manifest>(manifest).and_then(|manifest| serde_json::to_vec(&manifest));
        let mut program = edited(&self.program, &in_program);
        if let Some(kept) = self.program.get(field) {
            program[field] = kept.clone();
        }
        let program = serde_json::from_value::<Program>(program).ok();
        let program = program.and_then(|program| postcard::to_stdvec(&program).ok());
        changed(&self.bytes, |kind, bytes| match (&manifest, &program) {
            (Ok(manifest), _) if kind == SectionKind::Manifest.code() => bytes.clone_from(manifest),
            (_, Some(program)) if kind == SectionKind::Program.code() => bytes.clone_from(program),
            _ => {}
        })
    }
}

/// Edits of the numbers in the manifest and in the program.
pub fn records(data: &[u8]) {
    static SOUND: OnceLock<Sound> = OnceLock::new();
    parse(&SOUND.get_or_init(|| Sound::of(short())).with_numbers(&edits(data).collect::<Vec<_>>()));
}

/// Most memory of a plan that is run.
const MOST_MEMORY: u64 = 64 << 20;

/// Edits of the numbers in the manifest and in the program, except for what the kernels state about themselves. A plan that is accepted
/// can be run, with any tokens of its vocabulary: a number that nothing was compared with is an address, sooner or later.
pub fn run(data: &[u8]) {
    static SOUND: OnceLock<Sound> = OnceLock::new();
    let sound = SOUND.get_or_init(|| Sound::of(toy()));
    let file = sound.with_numbers_outside(&edits(data).collect::<Vec<_>>(), "kernels");
    let Ok(plan) = Plan::parse(&file) else { return };
    let model = &plan.manifest().model;
    let (n_outputs, last) = (model.n_outputs() as usize, (model.vocab - 1) as u32);
    let memory = |(info, _): (&ProgramInfo, &Program)| info.memory.total(&plan.manifest().limits);
    if !plan.programs().all(|program| memory(program) <= MOST_MEMORY) {
        return;
    }
    let file = PlanFile::copy_of(&file).expect("memory");
    let options = OpenOptions { threads: Some(1), ..OpenOptions::default() };
    let Ok(mut engine) = Engine::open(file, options) else { return };
    let most = engine.max_step_tokens().min(engine.manifest().limits.max_context as usize).min(64);
    let tokens: Vec<u32> = [last, 0, 1].into_iter().map(|token| token.min(last)).cycle().take(most).collect();
    let Ok(sequence) = engine.add_sequence() else { return };
    let outputs = if most <= engine.max_step_outputs() { Outputs::All } else { Outputs::Last };
    if let Ok(logits) = engine.step(&[Feed { sequence, tokens: &tokens, outputs }]) {
        assert!(logits.rows().all(|row| row.len() == n_outputs));
    }
    let _ = engine.step(&[Feed { sequence, tokens: &[last], outputs: Outputs::Last }]);
    let _ = engine.snapshot(sequence).map(|snapshot| engine.restore(&snapshot));
}

/// A document with other numbers, counted in its order.
fn edited(sound: &Value, edits: &[(usize, u64)]) -> Value {
    let mut value = sound.clone();
    let mut n_numbers = 0;
    numbers(&mut value, &mut |_| n_numbers += 1);
    let edits: BTreeMap<usize, u64> =
        edits.iter().map(|(place, number)| ((place / 4) % n_numbers.max(1), *number)).collect();
    let mut at = 0;
    numbers(&mut value, &mut |found| {
        if let Some(number) = edits.get(&at) {
            *found = (*number).into();
        }
        at += 1;
    });
    value
}

fn numbers(value: &mut Value, visit: &mut dyn FnMut(&mut Value)) {
    match value {
        Value::Number(_) => visit(value),
        Value::Array(items) => items.iter_mut().for_each(|item| numbers(item, visit)),
        Value::Object(entries) => entries.values_mut().for_each(|entry| numbers(entry, visit)),
        _ => {}
    }
}

/// Edits of a saved state, and of its digests. One that is accepted can be restored and continued.
pub fn state(data: &[u8]) {
    static SOUND: OnceLock<Vec<u8>> = OnceLock::new();
    let mut engine = engine().lock().expect("no other target panicked");
    let format = engine.state_format();
    let _ = format.read(data);
    let mut file = SOUND
        .get_or_init(|| {
            let sequence = engine.add_sequence().expect("a free sequence");
            engine.prefill(sequence, &[1, 20, 30], None, None).expect("a step");
            let state = engine.snapshot(sequence).expect("a snapshot").with_next(&[5]).with_note("note").to_bytes();
            engine.remove_sequence(sequence).expect("the sequence");
            state
        })
        .clone();
    for (place, number) in edits(data) {
        match place % 8 {
            0 => file.truncate((number as usize).min(file.len()).max(STATE_HEADER)),
            1 => file.resize(file.len().max(STATE_HEADER) + number as usize % 4096, 0),
            2 => {
                let n = file.len() as u64;
                file[16..24].copy_from_slice(&n.to_le_bytes());
            }
            3 => {
                let at = STATE_HEADER + place / 8 % (file.len() - STATE_HEADER).max(1);
                if let Some(byte) = file.get_mut(at) {
                    *byte = number as u8;
                }
            }
            _ => {
                let at = place / 8 % (STATE_HEADER - 8);
                file[at..at + 8].copy_from_slice(&number.to_le_bytes());
            }
        }
    }
    let content = blake3::hash(&file[STATE_HEADER..]);
    file[128..160].copy_from_slice(content.as_bytes());
    let header = blake3::hash(&file[..160]);
    file[160..192].copy_from_slice(header.as_bytes());
    let Ok(snapshot) = format.read(&file) else { return };
    let before = engine.free();
    if let Ok(sequence) = engine.restore(&snapshot) {
        let _ = engine.prefill(sequence, &[7], None, None);
        engine.remove_sequence(sequence).expect("the sequence");
    }
    assert_eq!(engine.free(), before, "slots and pages come back");
}
