//! Turns texts and chats into tokens, off the threads of the server and of the steps.

use std::sync::Arc;

use jamba_runtime::{Chat, EncodedChat, GenerateOptions};

use crate::app::App;
use crate::error::{ApiError, Result};

impl App {
    /// Encodes a text.
    pub(crate) async fn encode(&self, text: String, with_special_tokens: bool) -> Result<Vec<u32>> {
        self.check_length(text.len())?;
        let tokenizer = Arc::clone(self.model.tokenizer()?);
        self.off_thread(move || {
            Ok(if with_special_tokens { tokenizer.encode(&text)? } else { tokenizer.encode_plain(&text)? })
        })
        .await
    }

    /// Renders and encodes a chat.
    pub(crate) async fn encode_chat(&self, chat: Chat) -> Result<EncodedChat> {
        let (tokenizer, template) = (Arc::clone(self.model.tokenizer()?), Arc::clone(self.model.template()?));
        let most = self.model.max_prompt_bytes();
        self.off_thread(move || {
            let rendered = template.render_parts(&chat)?;
            check_length(rendered.text().len(), most)?;
            Ok(tokenizer.encode_chat(&rendered)?)
        })
        .await
    }

    /// Compiles the constraint of the options, which the step thread would otherwise do while all answers wait.
    pub(crate) async fn compile(&self, options: &mut GenerateOptions) -> Result<()> {
        if let Some(constraint) = options.constraint.take() {
            let compiler = self.model.constraints()?.clone();
            options.compiled = Some(self.off_thread(move || Ok(compiler.compile(&constraint)?)).await?);
        }
        Ok(())
    }

    fn check_length(&self, n_bytes: usize) -> Result<()> {
        check_length(n_bytes, self.model.max_prompt_bytes())
    }

    /// Runs `work` on a thread for blocking work, as many at a time as there are cores.
    async fn off_thread<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let _permit = self.prepare.acquire().await.map_err(ApiError::internal)?;
        tokio::task::spawn_blocking(work).await.map_err(|_| {
            ApiError::internal("an internal error while the prompt was encoded, which the server's log describes")
        })?
    }
}

fn check_length(n_bytes: usize, most: usize) -> Result<()> {
    match n_bytes > most {
        true => Err(ApiError::too_long(format!(
            "the prompt has {n_bytes} bytes, more than the {most} that can fit the context"
        ))),
        false => Ok(()),
    }
}
