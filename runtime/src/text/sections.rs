//! The text sections of a plan, parsed on first use.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use jamba_plan::Plan;
use jamba_plan::sections::SectionKind;

#[cfg(feature = "constrain")]
use super::constrain::Vocabulary;
use crate::{ChatTemplate, Engine, RuntimeError, Tokenizer};

/// Byte ranges of the text sections in the plan's file, and the parsed tokenizer.
pub(crate) struct Texts {
    tokenizer: Option<Range<usize>>,
    config: Option<Range<usize>>,
    template: Option<Range<usize>>,
    loaded: OnceLock<Arc<Tokenizer>>,
    templates: OnceLock<ChatTemplate>,
    #[cfg(feature = "constrain")]
    vocabulary: Vocabulary,
}

impl Texts {
    pub(crate) fn new(plan: &Plan<'_>) -> Texts {
        let range = |kind: SectionKind| {
            let section = plan.sections().iter().find(|section| section.kind == kind.code())?;
            Some(section.offset as usize..(section.offset + section.bytes) as usize)
        };
        Texts {
            tokenizer: range(SectionKind::Tokenizer),
            config: range(SectionKind::TokenizerConfig),
            template: range(SectionKind::ChatTemplate),
            loaded: OnceLock::new(),
            templates: OnceLock::new(),
            #[cfg(feature = "constrain")]
            vocabulary: Vocabulary::default(),
        }
    }
}

impl Engine {
    fn text_section(&self, range: &Option<Range<usize>>) -> Option<&[u8]> {
        range.clone().map(|range| &self.file.bytes()[range])
    }

    fn tokenizer_section(&self) -> Result<&[u8], RuntimeError> {
        self.text_section(&self.texts.tokenizer).ok_or(RuntimeError::NoSection("tokenizer"))
    }

    /// The plan's tokenizer, parsed on first use.
    ///
    /// # Errors
    /// [`RuntimeError::NoSection`] if the checkpoint had no tokenizer.
    pub fn tokenizer(&self) -> Result<Arc<Tokenizer>, RuntimeError> {
        let texts = &self.texts;
        if let Some(tokenizer) = texts.loaded.get() {
            return Ok(Arc::clone(tokenizer));
        }
        let config = self.text_section(&texts.config);
        let mut tokenizer = Tokenizer::new(self.tokenizer_section()?, config, self.manifest().model.bos)?;
        if let Ok(template) = self.chat_template() {
            tokenizer = tokenizer.with_template(&template);
        }
        let tokenizer = Arc::new(tokenizer);
        Ok(Arc::clone(texts.loaded.get_or_init(|| tokenizer)))
    }

    /// The plan's chat templates, read on first use.
    ///
    /// # Errors
    /// [`RuntimeError::NoSection`] if the checkpoint had none.
    pub fn chat_template(&self) -> Result<ChatTemplate, RuntimeError> {
        let texts = &self.texts;
        if let Some(templates) = texts.templates.get() {
            return Ok(templates.clone());
        }
        let templates = ChatTemplate::new(self.text_section(&texts.template), self.text_section(&texts.config))?;
        Ok(texts.templates.get_or_init(|| templates).clone())
    }

    /// A chat template from its source, with the plan's special tokens.
    ///
    /// # Errors
    /// Fails if the source is not a template.
    pub fn chat_template_from(&self, source: &str) -> Result<ChatTemplate, RuntimeError> {
        ChatTemplate::new(Some(source.as_bytes()), self.text_section(&self.texts.config))
    }

    /// As [`Engine::chat_template_from`], of a source whose errors begin with `name`, for example its file.
    ///
    /// # Errors
    /// Fails if the source is not a template.
    pub fn chat_template_of(&self, name: &str, source: &str) -> Result<ChatTemplate, RuntimeError> {
        let named = |error| match error {
            RuntimeError::Tokenizer { section: section @ "chat template", reason } => {
                RuntimeError::Tokenizer { section, reason: format!("{name}: {reason}") }
            }
            error => error,
        };
        Ok(self.chat_template_from(source).map_err(named)?.with_origin(name))
    }

    /// The plan's `tokenizer.json`, and llguidance's form of it.
    #[cfg(feature = "constrain")]
    pub(crate) fn vocabulary(&self) -> Result<(&[u8], &Vocabulary), RuntimeError> {
        Ok((self.tokenizer_section()?, &self.texts.vocabulary))
    }
}
