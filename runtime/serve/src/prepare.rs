//! Turns texts and chats into tokens, off the threads of the server and of the steps.

use std::sync::Arc;
use std::time::Duration;

use jamba_runtime::{AddedTokens, Cancel, Chat, EncodedChat, GenerateOptions};
use serde_json::Value;
use tokio::sync::Semaphore;

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
        let encode = move |cancel: &Cancel| {
            Ok(tokenizer.encode_chat_within(&template.render_parts_until(&chat, cancel)?, most)?)
        };
        off_thread(&self.prepare, encode).await
    }

    /// Renders a chat.
    pub(crate) async fn render(&self, chat: Chat) -> Result<String> {
        self.check_size(&chat)?;
        let template = Arc::clone(self.model.template()?);
        let render = move |cancel: &Cancel| Ok(template.render_parts_until(&chat, cancel)?.into_text());
        off_thread(&self.prepare, render).await
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
            let compile = move |cancel: &Cancel| Ok(compiler.compile_within(&constraint, Duration::MAX, cancel)?);
            options.compiled = Some(off_thread(&self.prepare, compile).await?);
        }
        Ok(())
    }

    /// As [`off_thread`], for work that runs to its end.
    pub(crate) async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        off_thread(&self.prepare, |_| work()).await
    }
}

/// Runs `work` on a thread for blocking work, as many at a time as there are permits. When the future is dropped, work that waits does
/// not begin, and the flag of work that runs is set: it keeps its permit until it ends.
async fn off_thread<T: Send + 'static>(
    permits: &Arc<Semaphore>,
    work: impl FnOnce(&Cancel) -> Result<T> + Send + 'static,
) -> Result<T> {
    let permit = Arc::clone(permits).acquire_owned().await.map_err(ApiError::internal)?;
    let vanishes = CancelOnDrop(Cancel::new());
    let cancel = vanishes.0.clone();
    let work = move || {
        let _permit = permit;
        work(&cancel)
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| {
        ApiError::internal("an internal error while the prompt was encoded, which the server's log describes")
    })?
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_whose_client_has_gone_ends_or_never_begins() {
        let permits = Arc::new(Semaphore::new(1));
        let (begins, begun) = tokio::sync::oneshot::channel();
        let (ends, ended) = tokio::sync::oneshot::channel();
        let until_cancelled = move |cancel: &Cancel| {
            let _ = begins.send(());
            while !cancel.is_cancelled() {
                std::thread::yield_now();
            }
            let _ = ends.send(());
            Ok(())
        };
        let running = tokio::spawn({
            let permits = Arc::clone(&permits);
            async move { off_thread(&permits, until_cancelled).await }
        });
        begun.await.unwrap();
        // Another waits for the permit, and its client goes first.
        tokio::select! {
            biased;
            _ = off_thread(&permits, |_| -> Result<()> { panic!("it has begun") }) => panic!("it has ended"),
            () = async {} => {}
        }
        assert_eq!(permits.available_permits(), 0);
        running.abort();
        ended.await.unwrap();
        assert!(running.await.unwrap_err().is_cancelled());
        // The permit is back, and whoever waits has the result.
        assert!(!off_thread(&permits, |cancel| Ok(cancel.is_cancelled())).await.unwrap());
    }
}
