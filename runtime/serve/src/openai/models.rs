//! `/v1/models`.

use axum::Json;
use axum::extract::{Path, State as Extract};
use serde_json::{Value, json};

use crate::app::{App, State};
use crate::error::Result;

fn object(app: &App, name: &str) -> Value {
    json!({
        "id": name,
        "object": "model",
        "created": app.model.created,
        "owned_by": "jamba",
        "root": app.model.names[0],
        "max_model_len": app.model.max_context,
    })
}

pub(crate) async fn list(Extract(app): Extract<State>) -> Json<Value> {
    let data: Vec<Value> = app.model.names.iter().map(|name| object(&app, name)).collect();
    Json(json!({ "object": "list", "data": data }))
}

pub(crate) async fn one(Extract(app): Extract<State>, Path(name): Path<String>) -> Result<Json<Value>> {
    let name = app.model.check_name(Some(&name))?;
    Ok(Json(object(&app, &name)))
}
