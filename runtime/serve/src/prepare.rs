//! Turns texts and chats into tokens, off the threads of the server and of the steps.

use std::sync::Arc;
use std::time::Duration;

use jamba_runtime::{AddedTokens, Cancel, Chat, EncodedChat, GenerateOptions};
use serde_json::Value;

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
        self.check_size(&chat)?;
        let (tokenizer, template) = (Arc::clone(self.model.tokenizer()?), Arc::clone(self.model.template()?));
        let most = Some(self.model.max_context as u64);
        self.off_thread(move || Ok(tokenizer.encode_chat_within(&template.render_parts(&chat)?, most)?)).await
    }

    /// Renders a chat.
    pub(crate) async fn render(&self, chat: Chat) -> Result<String> {
        self.check_size(&chat)?;
        let template = Arc::clone(self.model.template()?);
        self.off_thread(move || Ok(template.render_parts(&chat)?.into_text())).await
    }

    /// Refuses chats that cannot fit the context before they are rendered, which may take long.
    fn check_size(&self, chat: &Chat) -> Result<()> {
        let (n, most) = (chat.messages.len(), self.model.max_context);
        if n > most {
            let message = format!("found {n} messages, expected at most {most}, as many as the context has tokens");
            return Err(ApiError::too_long(message).at("messages"));
        }
        let parts = [Some(&chat.messages), chat.tools.as_ref(), chat.documents.as_ref()];
        let n: usize = parts.into_iter().flatten().flatten().map(n_bytes).sum();
        let most = self.model.max_prompt_bytes();
        if n > most {
            let message =
                format!("the chat has {n} bytes of text, expected at most {most}, more than the context can hold");
            return Err(ApiError::too_long(message).at("messages"));
        }
        Ok(())
    }

    /// Compiles the constraint of the options, which the step thread would otherwise do while all answers wait.
    pub(crate) async fn compile(&self, options: &mut GenerateOptions) -> Result<()> {
        if let Some(constraint) = options.constraint.take() {
            let compiler = self.model.constraints()?.clone();
            let cancel = Cancel::new();
            let _vanishes = CancelOnDrop(cancel.clone());
            let compile = move || Ok(compiler.compile_within(&constraint, Duration::MAX, &cancel)?);
            options.compiled = Some(self.off_thread(compile).await?);
        }
        Ok(())
    }

    /// Runs `work` on a thread for blocking work, as many at a time as there are cores.
    pub(crate) async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let _permit = self.prepare.acquire().await.map_err(ApiError::internal)?;
        tokio::task::spawn_blocking(work).await.map_err(|_| {
            ApiError::internal("an internal error while the prompt was encoded, which the server's log describes")
        })?
    }
}

/// Cancels work when the future of its request is dropped, as it is when the client disconnects.
struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Bytes of all texts in a value.
fn n_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(n_bytes).sum(),
        Value::Object(fields) => fields.iter().map(|(name, value)| name.len() + n_bytes(value)).sum(),
        _ => 0,
    }
}
