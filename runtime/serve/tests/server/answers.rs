//! What is served is what the runtime generates alone.

use std::ops::ControlFlow;

use jamba_runtime::{GenerateOptions, Message, SamplerOptions};
use jamba_serve::ServeOptions;
use serde_json::{Value, json};

use crate::client::{Running, engine};

/// The text and tokens of a request alone.
fn alone(prompt: &[u32], seed: u64, max_new: usize) -> String {
    let mut engine = engine();
    let sampler = SamplerOptions { seed: Some(seed), ..engine.sampler_options() };
    let options = GenerateOptions { max_new, sampler, ..GenerateOptions::default() };
    engine.generate(prompt, &options, |_| ControlFlow::Continue(())).expect("an answer").text
}

#[test]
fn many_clients_at_once_get_what_each_gets_alone() {
    let server = Running::new(ServeOptions::default());
    let request = |i: u64| {
        let prompt: Vec<u32> = (0..3 + i as u32 % 20).map(|at| 3 + (at * 7 + i as u32 % 5) % 200).collect();
        (prompt, 1000 + i)
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..24)
            .map(|i| {
                let server = &server;
                scope.spawn(move || {
                    let (prompt, seed) = request(i);
                    let body = json!({ "prompt": prompt, "seed": seed, "max_tokens": 20, "stream": i % 2 == 0 });
                    let response = server.post("/v1/completions", &body);
                    assert_eq!(response.status, 200, "{}", response.body);
                    let text = |object: &Value| object["choices"][0]["text"].as_str().expect("a text").to_owned();
                    if i % 2 == 0 { response.events().iter().map(text).collect() } else { text(&response.json()) }
                })
            })
            .collect();
        for (i, client) in clients.into_iter().enumerate() {
            let (prompt, seed) = request(i as u64);
            let found: String = client.join().expect("an answer");
            assert_eq!(found, alone(&prompt, seed, 20), "request {i}");
        }
    });
}

#[test]
fn a_chat_streams_what_it_answers_whole() {
    let server = Running::new(ServeOptions::default());
    let ask = |stream: bool| {
        json!({
            "model": "toy", "messages": [{ "role": "user", "content": [{ "type": "text", "text": "Hi" }] }],
            "seed": 4, "max_completion_tokens": 12, "stream": stream, "n": 2, "logprobs": true, "top_logprobs": 2,
            "stream_options": { "include_usage": true },
        })
    };
    let whole = server.post("/v1/chat/completions", &ask(false)).json();
    assert_eq!(whole["object"], "chat.completion");
    let response = server.post("/v1/chat/completions", &ask(true));
    assert_eq!(response.header("content-type"), Some("text/event-stream"));
    let events = response.events();
    let id = &events[0]["id"];
    assert!(events.iter().all(|event| event["id"] == *id && event["object"] == "chat.completion.chunk"));
    let (last, chunks) = events.split_last().expect("events");
    assert_eq!(
        (&last["choices"], &last["usage"]["completion_tokens"]),
        (&json!([]), &whole["usage"]["completion_tokens"])
    );
    for choice in 0..2 {
        let of_choice: Vec<&Value> =
            chunks.iter().map(|event| &event["choices"][0]).filter(|one| one["index"] == choice).collect();
        assert_eq!(of_choice[0]["delta"]["role"], "assistant");
        assert!(of_choice[1..].iter().all(|chunk| chunk["delta"].get("role").is_none()));
        let text: String = of_choice.iter().filter_map(|chunk| chunk["delta"]["content"].as_str()).collect();
        let logprobs: Vec<Value> =
            of_choice.iter().filter_map(|chunk| chunk["logprobs"]["content"].as_array()).flatten().cloned().collect();
        let expected = &whole["choices"][choice];
        assert_eq!(text, expected["message"]["content"]);
        assert_eq!(logprobs, *expected["logprobs"]["content"].as_array().expect("log probabilities"));
        assert_eq!(logprobs[0]["top_logprobs"].as_array().map(Vec::len), Some(2));
        let finish = |chunk: &&Value| chunk["finish_reason"].clone();
        assert_eq!(of_choice.last().map(finish), Some(expected["finish_reason"].clone()));
        assert!(of_choice[..of_choice.len() - 1].iter().all(|chunk| chunk["finish_reason"].is_null()));
    }
    let template = engine().chat_template().expect("a template");
    let rendered = template.render(&[Message { role: "user".into(), content: "Hi".into() }]).expect("a prompt");
    let body = json!({ "messages": [{ "role": "user", "content": "Hi" }] });
    assert_eq!(server.post("/apply-template", &body).json()["prompt"], rendered);
    let n_tokens = engine().tokenizer().expect("a tokenizer").encode_plain(&rendered).expect("tokens").len();
    assert_eq!(whole["usage"]["prompt_tokens"], n_tokens);
}

#[test]
fn the_same_prompt_again_is_taken_from_the_cache() {
    let server = Running::new(ServeOptions::default());
    let prompt: Vec<u32> = (3..60).collect();
    let ask = |prompt: &[u32]| {
        let body = json!({ "prompt": prompt, "seed": 1, "max_tokens": 5, "logprobs": 1 });
        server.post("/v1/completions", &body).json()
    };
    let (first, second) = (ask(&prompt), ask(&prompt));
    let cached = |answer: &Value| answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64();
    assert_eq!((cached(&first), cached(&second)), (Some(0), Some(56)));
    assert_eq!(first["choices"], second["choices"]);
    let metrics = server.get("/metrics");
    assert!(metrics.header("content-type").is_some_and(|kind| kind.starts_with("application/openmetrics-text")));
    for line in [
        "vllm:prefix_cache_hits_total 56",
        "jamba_prompt_tokens_total 114",
        "vllm:generation_tokens_total 10",
        "vllm:num_requests_running 0",
        "vllm:request_success_total{finished_reason=\"length\"} 2",
    ] {
        assert!(metrics.body.lines().any(|found| found.starts_with(line)), "{line} in {}", metrics.body);
    }
    // Readers of the Prometheus text format know three types.
    for kind in metrics.body.lines().filter(|line| line.starts_with("# TYPE ")) {
        let kind = kind.rsplit(' ').next().expect("a type");
        assert!(["counter", "gauge", "histogram"].contains(&kind), "{kind}");
    }
    assert!(metrics.body.contains("# TYPE vllm:cache_config_info gauge"), "{}", metrics.body);
}

#[test]
fn prompts_of_all_four_kinds_in_order() {
    let server = Running::new(ServeOptions::default());
    let texts = |prompt: Value| {
        let body = json!({ "prompt": prompt, "seed": 9, "max_tokens": 4, "n": 1 });
        let answer = server.post("/completions", &body).json();
        let choices = answer["choices"].as_array().unwrap_or_else(|| panic!("{answer}")).clone();
        assert!(choices.iter().enumerate().all(|(index, choice)| choice["index"] == index));
        choices.iter().map(|choice| choice["text"].as_str().expect("a text").to_owned()).collect::<Vec<_>>()
    };
    let tokens = server.post("/tokenize", &json!({ "content": "Once upon" })).json();
    let other = server.post("/tokenize", &json!({ "prompt": "a time" })).json();
    let (one, two) = (texts(json!("Once upon")), texts(json!("a time")));
    assert_eq!(texts(json!(["Once upon", "a time"])), [one.clone(), two.clone()].concat());
    assert_eq!(texts(tokens["tokens"].clone()), one);
    assert_eq!(texts(json!([tokens["tokens"], other["tokens"]])), [one, two].concat());
    let back = server.post("/detokenize", &json!({ "tokens": tokens["tokens"], "skip_special_tokens": true }));
    assert_eq!(back.json()["content"], "Once upon");
}

#[test]
fn the_end_is_where_the_request_wants_it() {
    let server = Running::new(ServeOptions::default());
    let ask = |more: Value| {
        let mut body = json!({ "prompt": [1, 20, 30], "seed": 3, "max_tokens": 30, "logprobs": 0 });
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let response = server.post("/v1/completions", &body);
        assert_eq!(response.status, 200, "{}", response.body);
        response.json()["choices"][0].clone()
    };
    let whole = ask(json!({}));
    let text = whole["text"].as_str().expect("a text");
    let stop: String = text.chars().skip(5).take(2).collect();
    let before = text.split(&stop).next().expect("a beginning");
    let stopped = ask(json!({ "stop": stop }));
    assert_eq!((stopped["text"].as_str(), stopped["finish_reason"].as_str()), (Some(before), Some("stop")));
    let included = ask(json!({ "stop": [stop], "include_stop_str_in_output": true }));
    assert_eq!(included["text"], format!("{before}{stop}"));
    let allowed = ask(json!({ "allowed_token_ids": [50, 60], "min_tokens": 30 }));
    assert_eq!(allowed["logprobs"]["tokens"].as_array().map(Vec::len), Some(30));
}

#[test]
fn an_echo_has_the_probabilities_of_the_prompt() {
    let server = Running::new(ServeOptions::default());
    let prompt = [1, 20, 30, 40, 50, 60, 70];
    let body =
        json!({ "prompt": [prompt], "max_tokens": 1, "logprobs": 1, "echo": true, "temperature": 0, "seed": 1234 });
    let answer = server.post("/v1/completions", &body).json();
    let logprobs = &answer["choices"][0]["logprobs"];
    let list = |name: &str| logprobs[name].as_array().unwrap_or_else(|| panic!("{answer}")).clone();
    let (tokens, found, top) = (list("tokens"), list("token_logprobs"), list("top_logprobs"));
    assert_eq!((tokens.len(), found.len(), top.len(), list("text_offset").len()), (8, 8, 8, 8));
    assert!(found[0].is_null() && top[0].is_null());
    let mut engine = engine();
    let sequence = engine.add_sequence().expect("a sequence");
    for at in 1..prompt.len() {
        let logits = engine.prefill(sequence, &prompt[at - 1..at], None, None).expect("logits").row(0).to_vec();
        let expected = jamba_runtime::sample::logprob(&logits, prompt[at]).expect("a probability");
        assert_eq!(found[at], json!(expected), "token {at}");
        // lm-eval counts a token as the likeliest if its number is the largest: they must be printed alike.
        assert_eq!(top[at][tokens[at].as_str().expect("a text")], found[at]);
    }
    let none = json!({ "prompt": "Once upon", "max_tokens": 0, "echo": true });
    let answer = server.post("/v1/completions", &none).json();
    assert_eq!(
        (&answer["choices"][0]["text"], &answer["usage"]["completion_tokens"]),
        (&json!("Once upon"), &json!(0))
    );
    let streamed = json!({ "prompt": "Once upon", "max_tokens": 2, "echo": true, "logprobs": 0, "seed": 2 });
    let whole = server.post("/v1/completions", &streamed).json();
    let mut streamed = streamed;
    streamed["stream"] = json!(true);
    let events = server.post("/v1/completions", &streamed).events();
    let text: String = events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
    let tokens: Vec<Value> = events
        .iter()
        .filter_map(|event| event["choices"][0]["logprobs"]["tokens"].as_array())
        .flatten()
        .cloned()
        .collect();
    assert_eq!(
        (json!(text), json!(tokens)),
        (whole["choices"][0]["text"].clone(), whole["choices"][0]["logprobs"]["tokens"].clone())
    );
}

#[test]
fn tokens_are_told_beside_the_text() {
    let server = Running::new(ServeOptions::default());
    let ask = |path: &str, mut body: Value, stream: bool| {
        let common =
            json!({ "seed": 4, "max_tokens": 9, "ignore_eos": true, "return_token_ids": true, "stream": stream });
        body.as_object_mut().expect("an object").extend(common.as_object().expect("an object").clone());
        let response = server.post(path, &body);
        let ids = |choice: &Value| -> Vec<u64> {
            choice["token_ids"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect()
        };
        match stream {
            true => response.events().iter().flat_map(|event| ids(&event["choices"][0])).collect(),
            false => ids(&response.json()["choices"][0]),
        }
    };
    let prompt = json!({ "prompt": [5, 6, 7] });
    let chat = json!({ "messages": [{ "role": "user", "content": "Hi" }] });
    for (path, body) in [("/v1/completions", prompt), ("/v1/chat/completions", chat)] {
        let whole = ask(path, body.clone(), false);
        assert_eq!(whole.len(), 9, "{path}");
        assert_eq!(ask(path, body, true), whole, "{path}");
    }
}

#[test]
fn a_random_seed_is_told_and_draws_the_same_again() {
    let server = Running::new(ServeOptions::default());
    for (path, asked) in [
        ("/v1/completions", json!({ "prompt": [1, 20, 30], "max_tokens": 12, "temperature": 1, "n": 2 })),
        (
            "/v1/chat/completions",
            json!({ "messages": [{ "role": "user", "content": "Hi" }], "max_tokens": 12, "n": 2 }),
        ),
    ] {
        let ask = |more: Value| {
            let mut body = asked.clone();
            body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            server.post(path, &body)
        };
        let first = ask(json!({})).json();
        let seed = first["seed"].as_u64().expect("a seed");
        assert_ne!(ask(json!({})).json()["seed"], first["seed"]);
        let again = ask(json!({ "seed": seed })).json();
        assert_eq!((&again["seed"], &again["choices"]), (&first["seed"], &first["choices"]));
        assert_eq!(ask(json!({ "seed": -5 })).json()["seed"], -5);
        let events = ask(json!({ "seed": seed, "stream": true })).events();
        assert!(events.iter().all(|event| event["seed"] == seed));
    }
}

#[test]
fn a_last_message_is_continued() {
    let server = Running::new(ServeOptions::default());
    let messages = json!([{ "role": "user", "content": "Hi" }, { "role": "assistant", "content": "Once upon" }]);
    let body = json!({ "messages": messages, "continue_final_message": true, "add_generation_prompt": false });
    let rendered = server.post("/apply-template", &body).json()["prompt"].as_str().expect("a text").to_owned();
    assert!(rendered.ends_with("Once upon"), "{rendered}");
    let mut ask = body.clone();
    ask.as_object_mut()
        .expect("an object")
        .extend([("seed".to_owned(), json!(2)), ("max_tokens".to_owned(), json!(9))]);
    let answer = server.post("/v1/chat/completions", &ask).json();
    let whole = json!({ "prompt": rendered, "add_special_tokens": false, "seed": 2, "max_tokens": 9 });
    let expected = server.post("/v1/completions", &whole).json();
    assert_eq!(answer["choices"][0]["message"]["content"], expected["choices"][0]["text"]);
    assert_eq!(answer["usage"]["prompt_tokens"], expected["usage"]["prompt_tokens"]);
    let mut wrong = body;
    wrong["add_generation_prompt"] = json!(true);
    let refused = server.post("/v1/chat/completions", &wrong);
    assert_eq!((refused.status, &refused.json()["error"]["param"]), (400, &json!("continue_final_message")));
}
