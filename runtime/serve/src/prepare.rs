//! Turns texts and chats into tokens, off the threads of the server and of the steps.

use std::sync::Arc;

use jamba_runtime::{AddedTokens, Chat, EncodedChat, GenerateOptions};

use crate::app::App;
use crate::error::{ApiError, Result};

impl App {
    /// Encodes a text. One that cannot fit the context is refused before it is encoded.
    pub(crate) async fn encode(&self, text: String, added: AddedTokens) -> Result<Vec<u32>> {
        let (tokenizer, most) = (Arc::clone(self.model.tokenizer()?), Some(self.model.max_context as u64));
        self.off_thread(move || Ok(tokenizer.encode_within(&text, most, added)?)).await
    }

    /// Renders and encodes a chat.
    pub(crate) async fn encode_chat(&self, chat: Chat) -> Result<EncodedChat> {
        let (tokenizer, template) = (Arc::clone(self.model.tokenizer()?), Arc::clone(self.model.template()?));
        let most = Some(self.model.max_context as u64);
        self.off_thread(move || Ok(tokenizer.encode_chat_within(&template.render_parts(&chat)?, most)?)).await
    }

    /// Compiles the constraint of the options, which the step thread would otherwise do while all answers wait.
    pub(crate) async fn compile(&self, options: &mut GenerateOptions) -> Result<()> {
        if let Some(constraint) = options.constraint.take() {
            let compiler = self.model.constraints()?.clone();
            options.compiled = Some(self.off_thread(move || Ok(compiler.compile(&constraint)?)).await?);
        }
        Ok(())
    }

    /// Runs `work` on a thread for blocking work, as many at a time as there are cores.
    async fn off_thread<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let _permit = self.prepare.acquire().await.map_err(ApiError::internal)?;
        tokio::task::spawn_blocking(work).await.map_err(|_| {
            ApiError::internal("an internal error while the prompt was encoded, which the server's log describes")
        })?
    }
}
