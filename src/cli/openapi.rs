//! `relaypacs openapi`: the document of the REST API.

use crate::http::api::document::document;
use crate::lifecycle::Exit;

pub fn run() -> anyhow::Result<Exit> {
    print!("{}", document());
    Ok(Exit::Done)
}
