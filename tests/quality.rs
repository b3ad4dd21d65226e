//! Quality loss of a trained model with integer weights: none measurable for int8, little for int4. `cargo bench -p
//! jambac-benches --bench formats` prints all formats.

use std::path::Path;

use jambac_benches::quality::{Format, Opened, Predictions, documents, exact_answers, open, questions};

/// Number of held-out documents used.
const N_DOCUMENTS: usize = 24;

/// Every n-th question is asked.
const ONE_IN: usize = 4;

#[test]
fn integer_weights_predict_and_answer_nearly_as_f32() {
    let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny");
    let documents = &documents(&checkpoint.join("heldout.txt")).unwrap()[..N_DOCUMENTS];
    let questions: Vec<_> =
        questions(&checkpoint.join("questions.jsonl")).unwrap().into_iter().step_by(ONE_IN).collect();
    let folder = tempfile::tempdir().unwrap();
    let open = |name| self::open(&checkpoint, folder.path(), Format::all(name)).unwrap();
    let (mut f32, mut int8, mut int4) = (open("f32"), open("int8"), open("int4"));
    let predict = |opened: &mut Opened| Predictions::of(&mut opened.engine, documents).unwrap();

    let truth = predict(&mut f32);
    assert!(truth.len() > 2000, "{} tokens say little", truth.len());
    for (name, opened, most_divergence, least_agreement) in
        [("int8", &mut int8, 1e-4, 0.98), ("int4", &mut int4, 1e-2, 0.9)]
    {
        let found = predict(opened);
        let (divergence, agreement) = (found.divergence(&truth).0, found.agreement(&truth));
        println!("{name}: divergence {divergence:.1e}, top-1 {agreement:.4}, {} bytes", opened.bytes);
        assert!(opened.bytes < f32.bytes / 2, "{name}: {} bytes, f32 {}", opened.bytes, f32.bytes);
        assert!(divergence > 0.0 && divergence < most_divergence, "{name}: divergence {divergence:e}");
        assert!(agreement > least_agreement, "{name}: top-1 agreement {agreement}");
    }

    // The samples of the calibration know nothing of the documents.
    let mut calibrated = self::open(&checkpoint, folder.path(), Format::all("int4").calibrated()).unwrap();
    let (nearest, found) = (predict(&mut int4), predict(&mut calibrated));
    let [before, after] = [nearest, found].map(|found| found.divergence(&truth).0);
    println!("int4: divergence {before:.2e}, calibrated {after:.2e}");
    assert!(after < 0.65 * before, "calibrated {after:e}, nearest {before:e}");

    let exact = |opened: &mut Opened| exact_answers(&mut opened.engine, &questions).unwrap();
    let (of_f32, of_int8) = (exact(&mut f32), exact(&mut int8));
    println!("exact answers to {} questions: f32 {of_f32}, int8 {of_int8}", questions.len());
    let lost = 100.0 * (of_f32 as f64 - of_int8 as f64) / questions.len() as f64;
    assert!(lost <= 1.0, "int8 answers {of_int8} of {} exactly, f32 {of_f32}", questions.len());
}
