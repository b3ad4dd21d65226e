//! Predicted times of published models' steps on an H100, as goldens: a change that adds a launch, or makes a step slower by the
//! model of the card, shows here. No GPU has confirmed them.

use std::fmt::Write;
use std::path::Path;

use expect_test::expect;
use jamba_plan::format::{TargetKind, WeightFormat};
use jambac::compile::{fusion, graphs, optimize, schedule};
use jambac::manifest::ModelFile;
use jambac::predict::{Card, Load, Model, Prediction, predict};
use jambac_graph::DType;
use jambac_kernels::target::Target;

use crate::models::published;

/// The predictions for a model, with experts or all weights in a format.
struct Subject {
    name: &'static str,
    predict: Box<dyn Fn(Load) -> Prediction>,
}

fn subject(name: &'static str, folder: &str, format: impl FnOnce(&mut ModelFile)) -> Subject {
    let config = published(folder);
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let mut model = ModelFile::open(&models.join("jamba-mini")).expect("a model file");
    (model.limits.max_sequences, model.limits.prefill_chunk, model.limits.max_outputs) = (64, 8192, 64);
    model.weights.experts = None;
    format(&mut model);
    let kind = TargetKind::Sm90a;
    let mut entries = graphs(&model, &config, &|_| DType::Bf16, kind).expect("graphs");
    optimize(&mut entries, &fusion(&model, kind)).expect("optimized graphs");
    let schedule = schedule(&model, &entries, &[Target::Sm90a], kind).expect("a schedule");
    let card = Card::of(Model::H100);
    let predict =
        move |load| predict(&schedule.kernels, &schedule.program, &card, load).expect("an entry for the step");
    Subject { name, predict: Box::new(predict) }
}

#[test]
fn launches_and_times_of_published_models() {
    let int8_experts = |model: &mut ModelFile| model.weights.experts = Some(WeightFormat::Int8);
    let int8 = |model: &mut ModelFile| model.weights.default = Some(WeightFormat::Int8);
    let subjects = [
        subject("3B", "jamba-3b", |_| ()),
        subject("3B int8", "jamba-3b", int8),
        subject("Mini, int8 experts", "jamba-mini", int8_experts),
        subject("Mini int8", "jamba-mini", int8),
        subject("Large, int8 experts", "jamba-large", int8_experts),
    ];
    let mut table = String::new();
    for Subject { name, predict } in &subjects {
        let steps = [1, 8, 64].map(|sequences| (format!("decode {sequences}"), Load::decode(sequences, 1024)));
        for (what, load) in steps.into_iter().chain([("prefill 8192".to_owned(), Load::prefill(8192, 0))]) {
            let Prediction { launches, seconds, bytes, floor } = predict(load);
            writeln!(
                table,
                "{name:<20} {what:<13} {:>4} launches {:>8.2} GB {:>8.3} ms {:>3.0} %",
                launches.len(),
                bytes / 1e9,
                seconds * 1e3,
                100.0 * floor / seconds
            )
            .expect("writing to a String");
        }
    }
    expect![[r#"
        3B                   decode 1       178 launches     6.09 GB    2.695 ms  75 %
        3B                   decode 8       233 launches     6.28 GB    2.893 ms  72 %
        3B                   decode 64      310 launches     7.94 GB    4.700 ms  56 %
        3B                   prefill 8192   308 launches    65.42 GB   95.562 ms  76 %
        3B int8              decode 1       178 launches     3.09 GB    1.667 ms  62 %
        3B int8              decode 8       233 launches     3.28 GB    1.866 ms  59 %
        3B int8              decode 64      310 launches     4.94 GB    4.264 ms  39 %
        3B int8              prefill 8192   308 launches    62.42 GB  109.152 ms  67 %
        Mini, int8 experts   decode 1       284 launches    18.12 GB    7.132 ms  85 %
        Mini, int8 experts   decode 8       331 launches    58.07 GB   20.588 ms  94 %
        Mini, int8 experts   decode 64      414 launches    61.95 GB   23.109 ms  89 %
        Mini, int8 experts   prefill 8192   410 launches   182.99 GB  394.870 ms  66 %
        Mini int8            decode 1       284 launches    11.99 GB    5.048 ms  79 %
        Mini int8            decode 8       331 launches    51.94 GB   18.504 ms  94 %
        Mini int8            decode 64      414 launches    55.81 GB   22.073 ms  84 %
        Mini int8            prefill 8192   410 launches   176.86 GB  423.740 ms  62 %
        Large, int8 experts  decode 1       629 launches   144.03 GB   50.551 ms  95 %
        Large, int8 experts  decode 8       736 launches   450.34 GB  153.077 ms  98 %
        Large, int8 experts  decode 64      924 launches   465.43 GB  161.520 ms  96 %
        Large, int8 experts  prefill 8192   915 launches  1006.90 GB 3062.419 ms  66 %
    "#]]
    .assert_eq(&table);
}
