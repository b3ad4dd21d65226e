//! Default options of a model: those of its authors, or ours where they chose none.

use jamba_plan::format::GenerationDefaults;

use crate::{Engine, GenerateOptions, SamplerOptions};

/// The sampler of models whose authors chose none: that of llama.cpp. Greedy picking repeats itself in long answers.
fn unspecified() -> SamplerOptions {
    SamplerOptions { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, ..SamplerOptions::GREEDY }
}

/// The base of a partial choice: the defaults of transformers with `do_sample`.
fn sampled() -> SamplerOptions {
    SamplerOptions { temperature: 1.0, top_k: 50, ..SamplerOptions::GREEDY }
}

impl SamplerOptions {
    /// The sampler of the model's authors.
    ///
    /// | generation_config.json | sampler |
    /// |---|---|
    /// | `do_sample` false | greedy |
    /// | `do_sample` true, or any of `temperature`, `top_k`, `top_p`, `min_p` | these values; temperature 1 and top-k 50 where absent, as in transformers |
    /// | none of them | temperature 0.8, top-k 40, top-p 0.95, min-p 0.05, as in llama.cpp |
    ///
    /// `repetition_penalty` applies in all three cases. There is no seed: each answer draws with a random one.
    ///
    /// ```
    /// use jamba_plan::format::GenerationDefaults;
    /// use jamba_runtime::SamplerOptions;
    ///
    /// let defaults = GenerationDefaults { temperature: Some(0.4), ..GenerationDefaults::default() };
    /// let options = SamplerOptions::of_model(&defaults);
    /// assert_eq!((options.temperature, options.top_k), (0.4, 50));
    /// ```
    pub fn of_model(defaults: &GenerationDefaults) -> SamplerOptions {
        let &GenerationDefaults { do_sample, temperature, top_k, top_p, min_p, repetition_penalty, .. } = defaults;
        let has_values = temperature.is_some() || top_k.is_some() || top_p.is_some() || min_p.is_some();
        let given = |value: Option<f64>, default: f32| value.map_or(default, |value| value as f32);
        let base = match do_sample {
            Some(false) => SamplerOptions::GREEDY,
            None if !has_values => unspecified(),
            _ => {
                let base = sampled();
                SamplerOptions {
                    temperature: given(temperature, base.temperature),
                    top_k: top_k.map_or(base.top_k, |k| k as usize),
                    top_p: given(top_p, base.top_p),
                    min_p: given(min_p, base.min_p),
                    ..base
                }
            }
        };
        SamplerOptions { repetition_penalty: given(repetition_penalty, base.repetition_penalty), ..base }
    }
}

impl GenerateOptions {
    /// Maximum number of new tokens where the model's authors chose none.
    pub const MAX_NEW: usize = 256;
}

impl Engine {
    /// The sampler of the model's authors; see [`SamplerOptions::of_model`].
    pub fn sampler_options(&self) -> SamplerOptions {
        SamplerOptions::of_model(&self.manifest().generation)
    }

    /// Options for generation as the model's authors chose them: [`Engine::sampler_options`], and `max_new` from
    /// `max_new_tokens`, or [`GenerateOptions::MAX_NEW`].
    ///
    /// ```
    /// use jamba_runtime::{Engine, GenerateOptions, OpenOptions};
    ///
    /// let mut engine = Engine::open("examples/toy.plan", OpenOptions::default())?;
    /// let prompt = engine.tokenizer()?.encode("Once upon a time")?;
    /// let options = GenerateOptions { max_new: 20, ..engine.generate_options() };
    /// assert_eq!(options.sampler.temperature, 0.8);
    /// engine.generate(&prompt, &options, |_| std::ops::ControlFlow::Continue(()))?;
    /// # Ok::<(), jamba_runtime::RuntimeError>(())
    /// ```
    pub fn generate_options(&self) -> GenerateOptions {
        let max_new = self.manifest().generation.max_new_tokens.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        GenerateOptions {
            max_new: max_new.unwrap_or(GenerateOptions::MAX_NEW),
            sampler: self.sampler_options(),
            ..GenerateOptions::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_model_is_sampled_as_in_llama_cpp() {
        let silent = GenerationDefaults { max_new_tokens: Some(5), ..GenerationDefaults::default() };
        assert_eq!(SamplerOptions::of_model(&silent), unspecified());
        let penalty = GenerationDefaults { repetition_penalty: Some(1.2), ..silent };
        let expected = SamplerOptions { repetition_penalty: 1.2, ..unspecified() };
        assert_eq!(SamplerOptions::of_model(&penalty), expected);
    }

    #[test]
    fn do_sample_false_is_greedy_whatever_the_temperature() {
        let defaults = GenerationDefaults {
            do_sample: Some(false),
            temperature: Some(0.7),
            repetition_penalty: Some(1.1),
            ..GenerationDefaults::default()
        };
        let expected = SamplerOptions { repetition_penalty: 1.1, ..SamplerOptions::GREEDY };
        assert_eq!(SamplerOptions::of_model(&defaults), expected);
    }

    #[test]
    fn absent_values_are_those_of_transformers() {
        let of_file = GenerationDefaults { do_sample: Some(true), ..GenerationDefaults::default() };
        assert_eq!(SamplerOptions::of_model(&of_file), sampled());
        let given = GenerationDefaults { temperature: Some(0.6), top_p: Some(0.9), top_k: Some(0), ..of_file };
        let expected = SamplerOptions { temperature: 0.6, top_p: 0.9, ..SamplerOptions::GREEDY };
        assert_eq!(SamplerOptions::of_model(&given), expected);
        // Without do_sample the values say that sampling is meant.
        assert_eq!(SamplerOptions::of_model(&GenerationDefaults { do_sample: None, ..given }), expected);
        let cold =
            GenerationDefaults { temperature: Some(0.0), do_sample: Some(true), ..GenerationDefaults::default() };
        assert_eq!(SamplerOptions::of_model(&cold).temperature, 0.0);
    }
}
