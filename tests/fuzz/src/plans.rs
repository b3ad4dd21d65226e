//! Plans and saved states with the right digests: what is left to find behind the digests.

use std::sync::{Mutex, OnceLock};

use jamba_plan::format::{Manifest, Program};
use jamba_plan::header::{HEADER_BYTES, Header};
use jamba_plan::sections::{self, FIRST_SECTION, Section, SectionKind, TABLE_BYTES};
use jamba_plan::synthetic::{DrawnRows, fill_panels};
use jamba_plan::{Plan, text};
use jamba_runtime::{Engine, OpenOptions};
use serde_json::Value;

use crate::mutate::edits;

/// A sound plan for CPUs.
const TOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../runtime/examples/toy.plan");

/// Bytes of states behind their header.
const STATE_HEADER: usize = 192;

fn toy() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| std::fs::read(TOY).expect("the toy's plan"))
}

/// An engine with the sound plan.
pub(crate) fn engine() -> &'static Mutex<Engine> {
    static ENGINE: OnceLock<Mutex<Engine>> = OnceLock::new();
    let open = || Engine::open(TOY, OpenOptions { threads: Some(1), ..OpenOptions::default() });
    ENGINE.get_or_init(|| Mutex::new(open().expect("the toy's plan opens")))
}

/// Some edits of nothing in particular.
pub(crate) fn no_edits() -> Vec<Vec<u8>> {
    (1..4).map(|n| vec![0; 13 * n]).collect()
}

/// A file of sections with these contents, whose digests and offsets are right.
fn assembled(contents: &[(u32, &str, Vec<u8>)]) -> Vec<u8> {
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
        ..Header::decode(toy()).expect("the toy's header")
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
pub(crate) fn frame(data: &[u8]) {
    let _ = Plan::parse(data);
    let mut file = toy().to_vec();
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

/// The sections of the sound plan.
fn contents() -> Vec<(u32, String, Vec<u8>)> {
    let plan = Plan::parse(toy()).expect("the toy's plan");
    let sections = plan.sections().iter();
    sections.map(|section| (section.kind, section.name.clone(), plan.bytes_of(section).to_vec())).collect()
}

fn parse_with(change: impl Fn(u32, &mut Vec<u8>)) {
    let mut contents = contents();
    contents.iter_mut().for_each(|(kind, _, bytes)| change(*kind, bytes));
    let contents: Vec<_> = contents.iter().map(|(kind, name, bytes)| (*kind, name.as_str(), bytes.clone())).collect();
    parse(&assembled(&contents));
}

/// Edits of the bytes of the manifest and of the program.
pub(crate) fn sections(data: &[u8]) {
    parse_with(|kind, bytes| {
        let is_edited = [SectionKind::Manifest.code(), SectionKind::Program.code()].contains(&kind);
        let n = bytes.len();
        for (place, number) in edits(data).filter(|_| is_edited && n > 0) {
            bytes[place % n] = number as u8;
        }
    });
}

/// Edits of the numbers in the manifest and in the program, of which postcard makes other bytes.
pub(crate) fn records(data: &[u8]) {
    let (in_manifest, in_program): (Vec<_>, Vec<_>) = edits(data).partition(|(place, _)| place % 4 == 0);
    parse_with(|kind, bytes| {
        if kind == SectionKind::Manifest.code() {
            let Ok(mut manifest) = serde_json::from_slice::<Value>(bytes) else { return };
            edit(&mut manifest, &in_manifest);
            if serde_json::from_value::<Manifest>(manifest.clone()).is_ok() {
                *bytes = manifest.to_string().into_bytes();
            }
        } else if kind == SectionKind::Program.code() {
            let Ok(program) = postcard::from_bytes::<Program>(bytes) else { return };
            let Ok(mut value) = serde_json::to_value(&program) else { return };
            edit(&mut value, &in_program);
            let edited = serde_json::from_value::<Program>(value).ok();
            if let Some(edited) = edited.and_then(|program| postcard::to_stdvec(&program).ok()) {
                *bytes = edited;
            }
        }
    });
}

/// Replaces numbers, counted in the order of the document.
fn edit(value: &mut Value, edits: &[(usize, u64)]) {
    let mut n_numbers = 0;
    numbers(value, &mut |_| n_numbers += 1);
    for (place, number) in edits {
        let (mut at, wanted) = (0, (place / 4) % n_numbers.max(1));
        numbers(value, &mut |found| {
            if at == wanted {
                *found = (*number).into();
            }
            at += 1;
        });
    }
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
pub(crate) fn state(data: &[u8]) {
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
