//! `/v1/models`.

use axum::Json;
use axum::extract::{Path, State as Extract};

use crate::app::{App, State};
use crate::error::Result;
use crate::openapi::{ErrorObject, ModelList, ModelObject};

fn object(app: &App, name: &str) -> ModelObject {
    ModelObject {
        id: name.to_owned(),
        object: "model",
        created: app.model.created,
        owned_by: "jamba",
        root: app.model.names[0].clone(),
        max_model_len: app.model.max_context,
    }
}

/// The names of the model.
#[utoipa::path(get, path = "/v1/models", responses((status = 200, body = ModelList)))]
pub(crate) async fn list(Extract(app): Extract<State>) -> Json<ModelList> {
    let data = app.model.names.iter().map(|name| object(&app, name)).collect();
    Json(ModelList { object: "list", data })
}

/// The model, if this is one of its names.
#[utoipa::path(get, path = "/v1/models/{id}", params(("id" = String, Path)), responses(
    (status = 200, body = ModelObject),
    (status = "4XX", body = ErrorObject),
))]
pub(crate) async fn one(Extract(app): Extract<State>, Path(name): Path<String>) -> Result<Json<ModelObject>> {
    let name = app.model.check_name(Some(&name))?;
    Ok(Json(object(&app, &name)))
}
