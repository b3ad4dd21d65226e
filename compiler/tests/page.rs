//! The page of `jambac inspect --html`: it holds the document of `--json`, names in a plan stay text, and in a browser it
//! shows those numbers without an error or a request.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use jamba_plan::format::TargetKind;
use jamba_plan::sections::SectionKind;
use jamba_plan::{Plan, PlanWriter};
use serde_json::Value;

#[track_caller]
fn jambac(args: &[&str]) -> Vec<u8> {
    let output = Command::new(env!("CARGO_BIN_EXE_jambac")).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A plan of the tiny model, its weights drawn from a seed.
fn plan(folder: &Path) -> PathBuf {
    let path = folder.join("tiny.plan");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny");
    jambac(&["build", text(&model), "-o", text(&path), "--synthetic-weights", "1"]);
    path
}

/// The page of a plan, as a file and as text.
fn page(plan: &Path) -> (PathBuf, String) {
    let path = plan.with_extension("html");
    jambac(&["inspect", text(plan), "--html", text(&path)]);
    (path.clone(), std::fs::read_to_string(path).unwrap())
}

/// What `--json` says, less the raw entries, which the page does without.
fn document(plan: &Path) -> Value {
    let json = jambac(&["inspect", text(plan), "--json", "--memory", "--steps", "--kernels"]);
    let mut document: Value = serde_json::from_slice(&json).unwrap();
    assert!(document.as_object_mut().unwrap().remove("entries").is_some());
    document
}

/// What stands between two texts, each of which is there once.
#[track_caller]
fn between<'a>(page: &'a str, before: &str, after: &str) -> &'a str {
    let [_, rest] = page.split(before).collect::<Vec<_>>()[..] else { panic!("{before} is not there once") };
    rest.split(after).next().unwrap()
}

fn data(page: &str) -> Value {
    serde_json::from_str(between(page, "<script type=\"application/json\" id=\"plan\">", "</script>")).unwrap()
}

#[test]
fn the_page_holds_the_document() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(folder.path());
    let (_, page) = page(&plan);
    let document = document(&plan);
    assert_eq!(data(&page), document);
    let pools = ["weights", "arena", "state", "kv", "tables"];
    let sum: u64 = pools.iter().map(|pool| document["memory"][pool].as_u64().unwrap()).sum();
    assert_eq!(document["memory"]["total"], sum);
    let entries = document["steps"].as_array().unwrap();
    for (entry, work) in entries.iter().zip(document["work"].as_array().unwrap()) {
        let steps = entry["steps"].as_array().unwrap();
        assert_eq!(work["total"]["steps"], steps.len());
        let bytes: f64 = steps.iter().map(|step| step["bytes"].as_f64().unwrap()).sum();
        assert_eq!(work["total"]["bytes"], bytes);
        let mut in_layers: Vec<u64> = Vec::new();
        for layer in entry["layers"].as_array().unwrap() {
            in_layers.extend(layer["steps"].as_array().unwrap().iter().map(|step| step.as_u64().unwrap()));
        }
        in_layers.sort();
        assert_eq!(in_layers, (0..steps.len() as u64).collect::<Vec<_>>(), "every step is in one layer");
        // Every step but the first reads what an earlier one wrote, and the first is the embedding.
        let edges = entry["edges"].as_array().unwrap();
        for step in 1..steps.len() {
            assert!(edges.iter().any(|edge| edge["to"] == step && edge["from"].as_u64() < Some(step as u64)), "{step}");
        }
    }
    // Nothing outside of the page is named but the namespace of SVG.
    let addresses: Vec<&str> = page.split("://").skip(1).map(|rest| rest.split('/').next().unwrap()).collect();
    assert!(addresses.iter().all(|host| *host == "www.w3.org"), "{addresses:?}");
    assert!([" src=", "<link", "@import"].iter().all(|loads| !page.contains(loads)));
}

const HOSTILE: &str =
    "</script><script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">&amp;\"'";

/// The plan with a name in it that would like to be markup.
fn hostile(plan: &Path) -> PathBuf {
    let bytes = std::fs::read(plan).unwrap();
    let plan_read = Plan::parse(&bytes).unwrap();
    let (mut manifest, mut program) = (plan_read.manifest().clone(), plan_read.first().1.clone());
    manifest.model.name = HOSTILE.to_owned();
    manifest.model.formats[0].0 = HOSTILE.to_owned();
    program.kernels[1].op = HOSTILE.to_owned();
    program.weights[0].parts[0].parameter = HOSTILE.to_owned();
    for entry in &mut program.entries {
        entry.steps[2].source = format!("layers.0.{HOSTILE}");
        entry.buffers[0].holds = HOSTILE.to_owned();
    }
    let path = plan.with_file_name("hostile.plan");
    let mut writer = PlanWriter::create(&path).unwrap();
    writer.manifest(&manifest).unwrap();
    writer.program(TargetKind::Cpu, &program).unwrap();
    for target in manifest.targets() {
        writer.code(target, plan_read.code(target).unwrap()).unwrap();
    }
    writer.section(SectionKind::Tokenizer, "tokenizer", b"{}").unwrap();
    writer.finish().unwrap();
    path
}

#[test]
fn names_stay_text() {
    let folder = tempfile::tempdir().unwrap();
    let plan = hostile(&plan(folder.path()));
    let (path, page) = page(&plan);
    assert_eq!(data(&page)["manifest"]["model"]["name"], HOSTILE);
    assert_eq!((page.matches("<script").count(), page.matches("<img").count()), (2, 0));
    let Some(browser) = Browser::find() else { return };
    let opened = with_script(&path, &open_everything());
    let (dom, console) = browser.show(&opened);
    assert_eq!(console, Vec::<String>::new());
    let title = dom.split("<title>").nth(1).unwrap().split("</title>").next().unwrap();
    assert_eq!(title.matches("&lt;").count(), HOSTILE.matches('<').count(), "{title}");
    assert_eq!(dom.matches("<img").count(), 0);
}

/// A GPU decodes few sequences and many by entries of their own: each has a name, numbers and a drawing.
#[test]
fn entries_of_one_kind_have_names_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gpu.plan");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny");
    let build = ["build", text(&model), "-o", text(&path), "--synthetic-weights", "1", "--target", "sm_90a"];
    jambac(&[&build[..], &["--max-sequences", "16"]].concat());
    let (page_path, page) = page(&path);
    let document = document(&path);
    assert_eq!(data(&page), document);
    let names = |part: &str| -> Vec<String> {
        let entries = document[part].as_array().unwrap().iter();
        entries.map(|entry| entry["entry"].as_str().unwrap().to_owned()).collect()
    };
    let expected = ["prefill", "decode of 2", "decode of 8", "decode of 16"];
    assert_eq!((names("work"), names("arena")), (names("steps"), names("steps")));
    assert_eq!(names("steps"), expected);
    assert_eq!(document["steps"][0]["balance"], 295.0);
    for name in expected {
        assert_eq!(page.matches(&format!("data-entry=\"{name}\"")).count(), 1, "{name}");
    }
    let Some(browser) = Browser::find() else { return };
    let (dom, console) = browser.show(&page_path);
    assert_eq!(console, Vec::<String>::new());
    check(&numbers(&dom), &document);
}

/// The output of `jamba bench --json` for a plan: each kernel of the steps once, a millisecond for each.
fn bench(document: &Value, digest: &str) -> String {
    let kernels = |index: usize| {
        let entry = &document["steps"][index];
        let steps = entry["steps"].as_array().unwrap().iter();
        steps.map(|step| {
            serde_json::json!({
                "entry": entry["entry"], "kind": step["kernel"], "steps": 1, "seconds": 0.001,
                "bytes": step["bytes"], "operations": step["operations"],
            })
        })
    };
    let kernels: Vec<Value> = kernels(0).chain(kernels(1)).collect();
    let rate = |median: f64| serde_json::json!({ "median": median });
    serde_json::json!({
        "peaks": { "threads": 2, "bytes_per_s": 20e9, "operations_per_s": 100e9 },
        "plans": [{
            "plan": "tiny.plan", "digest": digest, "device": "cpu",
            "prefill_tokens_per_s": rate(5000.0), "decode_tokens_per_s": rate(321.0), "kernels": kernels,
        }],
    })
    .to_string()
}

#[test]
fn measured_times_and_another_plan_join_the_page() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(folder.path());
    let document = document(&plan);
    let unfused = folder.path().join("unfused.plan");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny");
    jambac(&["build", text(&model), "-o", text(&unfused), "--synthetic-weights", "1", "--fusion", "none"]);
    let (measured, other) = (folder.path().join("bench.json"), folder.path().join("other.json"));
    std::fs::write(&measured, bench(&document, document["digest"].as_str().unwrap())).unwrap();
    std::fs::write(&other, bench(&document, &"0".repeat(64))).unwrap();
    let html = folder.path().join("page.html");
    let args = ["inspect", text(&plan), "--html", text(&html), "--against", text(&unfused), "--measured"];
    jambac(&[&args[..], &[text(&measured)]].concat());
    let output = Command::new(env!("CARGO_BIN_EXE_jambac")).args(args).arg(&other).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && stderr.contains("other.json"), "{stderr}");
    assert!(stderr.contains("expected this plan"), "{stderr}");

    let page = std::fs::read_to_string(&html).unwrap();
    let data = data(&page);
    assert_eq!(data["measured"][0]["entries"][1]["tokens_per_s"], 321.0);
    let steps = |work: &Value| work["work"][0]["total"]["steps"].as_u64().unwrap();
    assert!(steps(&data["against"]) > steps(&data));
    let Some(browser) = Browser::find() else { return };
    let (dom, console) = browser.show(&html);
    assert_eq!(console, Vec::<String>::new());
    assert!(dom.contains("Measured: 321 tokens/s"), "the bound at the top");
    let plot = between(&dom, "<svg class=\"roofline\"", "</svg>");
    let computes = |step: &&Value| step["operations"].as_f64().unwrap() > 0.0;
    let expected = document["steps"][0]["steps"].as_array().unwrap().iter().filter(computes).count();
    assert_eq!(plot.matches("<circle").count(), expected);
    assert!(dom.contains("Beside another plan") && dom.contains("unfused.plan (1 pass)"));
}

#[test]
fn a_browser_shows_the_numbers_of_the_document() {
    let folder = tempfile::tempdir().unwrap();
    let Some(browser) = Browser::find() else { return };
    let broken = folder.path().join("broken.html");
    std::fs::write(&broken, "<!DOCTYPE html><script>nowhere.to.be.found()</script>").unwrap();
    assert_eq!(browser.show(&broken).1.len(), 1, "errors are seen");

    let plan = plan(folder.path());
    let (path, _) = page(&plan);
    let document = document(&plan);
    let (dom, console) = browser.show(&path);
    assert_eq!(console, Vec::<String>::new());
    let shown = numbers(&dom);
    check(&shown, &document);
    for name in ["weights", "arena", "state", "kv", "tables", "total"] {
        assert!(shown.contains_key(&format!("/memory/{name}")), "{name}");
    }
    for name in document["manifest"]["limits"].as_object().unwrap().keys() {
        assert!(shown.contains_key(&format!("/manifest/limits/{name}")), "{name}");
    }
    let n_steps = |entry: usize| document["steps"][entry]["steps"].as_array().unwrap().len();
    for step in 0..n_steps(0) {
        assert!(shown.contains_key(&format!("/steps/0/steps/{step}/bytes")), "{step}");
    }

    // The other entry, every layer open, the steps of the linear kernels with the most bytes first.
    let script = format!(
        "document.querySelectorAll('#entries button')[1].click(); {}
         const steps = document.getElementById('steps');
         steps.querySelectorAll('th button')[3].click();
         steps.querySelector('input').value = 'linear layers.1';
         steps.querySelector('input').dispatchEvent(new Event('input'));
         const box = document.querySelector('.drawing:not([hidden]) rect[data-buffer=\"3\"]');
         box.dispatchEvent(new PointerEvent('pointerover', {{ bubbles: true }}));",
        open_everything()
    );
    let (dom, console) = browser.show(&with_script(&path, &script));
    assert_eq!(console, Vec::<String>::new());
    let shown = numbers(&dom);
    check(&shown, &document);
    assert!((0..n_steps(1)).all(|step| shown.contains_key(&format!("/steps/1/steps/{step}/operations"))));
    let layers = document["steps"][1]["layers"].as_array().unwrap().len();
    assert!((0..layers).all(|layer| shown.contains_key(&format!("/steps/1/layers/{layer}/bytes"))));
    assert_eq!(dom.matches("<g class=\"step ").count(), n_steps(1));
    let buffer = &document["arena"][1]["buffers"][3];
    let told = between(&dom, "id=\"buffer\">", "</p>");
    assert!(told.starts_with("b3: ") && digits(told).contains(&buffer["bytes"].as_u64().unwrap()), "{told}");
    sorted_and_filtered(&dom, &document["steps"][1]["steps"]);
}

/// The rows of the table of steps: those that the filter lets through, the most bytes first.
fn sorted_and_filtered(dom: &str, steps: &Value) {
    let body = dom.split("<table class=\"steps\">").nth(1).unwrap().split("</table>").next().unwrap();
    let rows = body.split("<tr").skip(2).filter(|row| !row.starts_with(" hidden"));
    let found: Vec<usize> = rows
        .map(|row| row.split("/steps/1/steps/").nth(1).unwrap().split('/').next().unwrap().parse().unwrap())
        .collect();
    let bytes = |step: usize| steps[step]["bytes"].as_f64().unwrap();
    assert!(found.is_sorted_by(|&a, &b| bytes(a) >= bytes(b)), "{found:?}");
    let fits = |step: &&Value| {
        let text = format!("{} {} {}", step["op"], step["source"], step["kernel"]);
        text.contains("linear") && text.contains("layers.1")
    };
    let expected = steps.as_array().unwrap().iter().filter(fits).count();
    assert!(expected > 1 && found.len() == expected, "{found:?}");
}

fn open_everything() -> String {
    "document.querySelectorAll('.layer').forEach((layer) => layer.click());
     document.querySelectorAll('details').forEach((details) => { details.open = true; });"
        .to_owned()
}

/// A copy of the page that does this once it is there.
fn with_script(page: &Path, script: &str) -> PathBuf {
    let text = std::fs::read_to_string(page).unwrap();
    let path = page.with_extension("opened.html");
    std::fs::write(&path, text.replace("</body>", &format!("<script>{{ {script} }}</script></body>"))).unwrap();
    path
}

/// The numbers that stand in the page, by their place in the document.
fn numbers(dom: &str) -> BTreeMap<String, u64> {
    let number = |part: &str| {
        let (path, rest) = part.split_once("\">").unwrap();
        let text = rest.split('<').next().unwrap();
        let [number] = digits(text)[..] else { panic!("{path}: {text:?} is no number") };
        (path.to_owned(), number)
    };
    dom.split("data-path=\"").skip(1).map(number).collect()
}

/// The numbers of a text, whose thousands are apart by narrow spaces.
fn digits(text: &str) -> Vec<u64> {
    let text = text.replace('\u{202f}', "");
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

#[track_caller]
fn check(shown: &BTreeMap<String, u64>, document: &Value) {
    assert!(shown.len() > 100, "{} numbers", shown.len());
    for (path, number) in shown {
        let expected = document.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {path}"));
        assert_eq!(*number as f64, expected.round(), "{path}");
    }
}

/// Chromium without a window.
struct Browser(PathBuf);

impl Browser {
    /// None where it is not installed, which is said out loud.
    fn find() -> Option<Browser> {
        let folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
        let names = ["chromium", "chromium-browser", "google-chrome"];
        let found = folders.iter().flat_map(|folder| names.map(|name| folder.join(name))).find(|path| path.is_file());
        if found.is_none() {
            // Past the harness, which keeps what a test that passes prints to itself.
            let told =
                writeln!(io::stderr(), "NOT TESTED IN A BROWSER: there is no chromium (apt-get install chromium)");
            told.unwrap();
        }
        found.map(Browser)
    }

    /// The page after its scripts have run, and what it told the console.
    fn show(&self, page: &Path) -> (String, Vec<String>) {
        let profile = tempfile::tempdir().unwrap();
        let output = Command::new(&self.0)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--enable-logging=stderr", "--dump-dom", "--virtual-time-budget=5000"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("file://{}", page.display()))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        let console = log.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned).collect();
        (String::from_utf8(output.stdout).unwrap(), console)
    }
}
