//! `/metrics`, in OpenMetrics: under our names, and under vLLM's where dashboards and routers expect them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jamba_runtime::Usage;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

use crate::steps::Load;

/// Content type of the text.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds of the buckets for times of requests, in seconds.
const REQUEST_SECONDS: [f64; 14] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];
/// Upper bounds of the buckets for times between tokens, in seconds.
const TOKEN_SECONDS: [f64; 12] = [0.002, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 1.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct Finished {
    finished_reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct Refused {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Pages {
    /// Tokens of a page.
    block_size: u64,
    num_gpu_blocks: u64,
}

#[derive(Clone, Debug, Default, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Adapters {
    max_lora: u64,
    running_lora_adapters: &'static str,
    waiting_lora_adapters: &'static str,
}

/// The counters and histograms of requests.
pub(crate) struct Metrics {
    registry: Registry,
    prompt_tokens: Counter,
    generation_tokens: Counter,
    finished: Family<Finished, Counter>,
    refused: Family<Refused, Counter>,
    first_token: Histogram,
    inter_token: Histogram,
    queue: Histogram,
    prefill: Histogram,
    decode: Histogram,
    whole: Histogram,
}

/// Memory of the engine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pools {
    pub(crate) slots: u64,
    /// Of the KV cache; 0 without attention.
    pub(crate) pages: u64,
    pub(crate) page_tokens: u64,
}

/// Registers a metric under our name and under vLLM's.
fn both(registry: &mut Registry, [ours, theirs]: [&str; 2], help: &str, metric: &(impl Metric + Clone)) {
    registry.register(format!("jamba_{ours}"), help, metric.clone());
    registry.register(format!("vllm:{theirs}"), help, metric.clone());
}

impl Metrics {
    pub(crate) fn new(load: Arc<Load>, pools: Pools) -> Metrics {
        let mut registry = Registry::default();
        let times = |bounds: &[f64]| Histogram::new(bounds.iter().copied());
        let metrics = Metrics {
            prompt_tokens: Counter::default(),
            generation_tokens: Counter::default(),
            finished: Family::default(),
            refused: Family::default(),
            first_token: times(&REQUEST_SECONDS),
            inter_token: times(&TOKEN_SECONDS),
            queue: times(&REQUEST_SECONDS),
            prefill: times(&REQUEST_SECONDS),
            decode: times(&REQUEST_SECONDS),
            whole: times(&REQUEST_SECONDS),
            registry: Registry::default(),
        };
        both(
            &mut registry,
            ["prompt_tokens", "prompt_tokens"],
            "Tokens of the prompts of finished answers",
            &metrics.prompt_tokens,
        );
        both(
            &mut registry,
            ["generation_tokens", "generation_tokens"],
            "Tokens of answers",
            &metrics.generation_tokens,
        );
        both(&mut registry, ["answers", "request_success"], "Answers that ended, by reason", &metrics.finished);
        both(
            &mut registry,
            ["refused", "admission_rejections"],
            "Requests that were refused, by reason",
            &metrics.refused,
        );
        both(
            &mut registry,
            ["time_to_first_token_seconds", "time_to_first_token_seconds"],
            "From the request to the first token",
            &metrics.first_token,
        );
        both(
            &mut registry,
            ["inter_token_latency_seconds", "inter_token_latency_seconds"],
            "Between two tokens of an answer",
            &metrics.inter_token,
        );
        both(
            &mut registry,
            ["queue_seconds", "request_queue_time_seconds"],
            "From the request to its first step",
            &metrics.queue,
        );
        both(
            &mut registry,
            ["prefill_seconds", "request_prefill_time_seconds"],
            "From the first step to the first token",
            &metrics.prefill,
        );
        both(
            &mut registry,
            ["decode_seconds", "request_decode_time_seconds"],
            "From the first token to the last",
            &metrics.decode,
        );
        both(
            &mut registry,
            ["request_seconds", "e2e_request_latency_seconds"],
            "From the request to the last token",
            &metrics.whole,
        );
        // A gauge, as vLLM has it: readers of the older format know no `info`.
        let pages: Family<Pages, Gauge> = Family::default();
        pages.get_or_create(&Pages { block_size: pools.page_tokens, num_gpu_blocks: pools.pages }).set(1);
        registry.register("vllm:cache_config_info", "Pages of the KV cache", pages);
        // No adapters: routers report the metric's absence as an error.
        let adapters: Family<Adapters, Gauge> = Family::default();
        adapters.get_or_create(&Adapters::default()).set(1);
        registry.register("vllm:lora_requests_info", "LoRA adapters, of which a plan has none", adapters);
        registry.register_collector(Box::new(LoadCollector { load, pools }));
        Metrics { registry, ..metrics }
    }

    /// An answer ended after `usage`.
    pub(crate) fn ended(&self, reason: &'static str, usage: &Usage) {
        self.prompt_tokens.inc_by(usage.prompt_tokens as u64);
        self.generation_tokens.inc_by(usage.new_tokens as u64);
        self.finished.get_or_create(&Finished { finished_reason: reason }).inc();
        if usage.new_tokens == 0 {
            return;
        }
        let (queue, prefill, decode) = (usage.queue, usage.prefill, usage.decode);
        self.queue.observe(queue.as_secs_f64());
        self.prefill.observe(prefill.as_secs_f64());
        self.decode.observe(decode.as_secs_f64());
        self.first_token.observe((queue + prefill).as_secs_f64());
        self.whole.observe((queue + prefill + decode).as_secs_f64());
    }

    /// The time between two tokens of an answer.
    pub(crate) fn gap(&self, seconds: f64) {
        self.inter_token.observe(seconds);
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&Refused { reason }).inc();
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

/// Reads the step thread's numbers when it is asked.
#[derive(Debug)]
struct LoadCollector {
    load: Arc<Load>,
    pools: Pools,
}

impl Collector for LoadCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> std::fmt::Result {
        let get = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let Load { running, waiting, free_slots, free_pages, steps, preemptions, cache, .. } = &*self.load;
        let mut gauge = |name: &str, help: &str, value: f64| {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
        };
        let used = |free: &AtomicU64, all: u64| match all {
            0 => 0.0,
            all => all.saturating_sub(get(free)) as f64 / all as f64,
        };
        let slots = used(free_slots, self.pools.slots);
        let pages = used(free_pages, self.pools.pages);
        for prefix in ["jamba_", "vllm:"] {
            gauge(&format!("{prefix}num_requests_running"), "Answers that have a sequence", get(running) as f64)?;
            gauge(&format!("{prefix}num_requests_waiting"), "Answers that wait for memory", get(waiting) as f64)?;
            let help = "Share in use of the state slots or the KV pages, whichever is more";
            gauge(&format!("{prefix}kv_cache_usage_perc"), help, slots.max(pages))?;
        }
        gauge("jamba_state_slots_used", "Share of the state slots in use", slots)?;
        gauge("jamba_kv_pages_used", "Share of the KV pages in use", pages)?;
        gauge("jamba_prefix_cache_snapshots", "Snapshots in the prefix cache", get(&cache.snapshots) as f64)?;
        gauge("jamba_prefix_cache_bytes", "Memory of the prefix cache", get(&cache.bytes) as f64)?;
        let mut counter = |name: &str, help: &str, value: u64| {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
        };
        for prefix in ["jamba_", "vllm:"] {
            let queries = get(&cache.tokens_saved) + get(&cache.tokens_read);
            counter(&format!("{prefix}prefix_cache_queries"), "Prompt tokens looked for in the prefix cache", queries)?;
            counter(
                &format!("{prefix}prefix_cache_hits"),
                "Prompt tokens found in the prefix cache",
                get(&cache.tokens_saved),
            )?;
            counter(&format!("{prefix}num_preemptions"), "Answers that gave way to others", get(preemptions))?;
        }
        counter("jamba_prefix_cache_prompts", "Prompts looked for in the prefix cache", get(&cache.prompts))?;
        counter("jamba_prefix_cache_prompt_hits", "Prompts of which a beginning was found", get(&cache.hits))?;
        counter(
            "jamba_prefix_cache_evictions",
            "Snapshots that left the prefix cache for others",
            get(&cache.evictions),
        )?;
        counter("jamba_steps", "Steps of the engine", get(steps))
    }
}
