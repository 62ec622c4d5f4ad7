//! How a command reaches what it concerns: the running node by its control socket, or, when none
//! answers, the same routes in this process over the data folder, under the spool's lock.

use std::pin::Pin;
use std::time::Duration;

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use poem::endpoint::BoxEndpoint;
use poem::http::{Method, StatusCode};
use poem::{Endpoint, EndpointExt, Request, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Failure;
use crate::config::Config;
use crate::control::{self, ErrorBody};
use crate::lifecycle::Exit;
use crate::node::{FolderInUse, Foundation};

/// Only to find out whether a node listens; what it then does may take as long as it takes.
const CONNECT: Duration = Duration::from_secs(5);
/// No line of an answer is longer.
const LONGEST_LINE: usize = 16 << 20;

pub enum Client {
    Node(reqwest::Client),
    Folder { routes: BoxEndpoint<'static, Response>, foundation: Box<Foundation> },
}

impl Client {
    /// Does `work` with the running node, or else on the data folder, which is let go of in good
    /// order whatever comes of it. Where no node has been yet, only a command that `adds` makes one: another would
    /// answer of an empty one that all is well.
    pub async fn with<T>(
        config: &Config,
        adds: bool,
        work: impl AsyncFnOnce(&Client) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let client = Self::open(config, adds).await?;
        let done = work(&client).await;
        client.close().await;
        done
    }

    async fn open(config: &Config, adds: bool) -> anyhow::Result<Client> {
        if let Some(node) = Self::of_running_node(config).await {
            return Ok(node);
        }
        if !adds && !config.spool.dir.try_exists()? {
            let dir = config.spool.dir.display();
            anyhow::bail!(
                "{dir} is not there: no node has run on it yet, or the configuration names another folder"
            );
        }
        let foundation = match Foundation::open(config.clone()).await {
            Err(error) if error.is::<FolderInUse>() => return Err(silent_node(config).into()),
            opened => opened?,
        };
        let routes = control::routes(foundation.admin(None)).boxed();
        Ok(Client::Folder { routes, foundation: Box::new(foundation) })
    }

    pub async fn of_running_node(config: &Config) -> Option<Client> {
        let path = control::socket::path(&config.node.data_dir);
        let connected = tokio::time::timeout(CONNECT, tokio::net::UnixStream::connect(&path)).await;
        connected.ok()?.ok()?;
        let client = reqwest::Client::builder().unix_socket(path).no_proxy().build().ok()?;
        Some(Client::Node(client))
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.ask(Method::GET, path, None).await
    }

    pub async fn delete(&self, path: &str) -> anyhow::Result<Answer> {
        self.ask(Method::DELETE, path, None).await
    }

    pub async fn post(&self, path: &str, body: &impl Serialize) -> anyhow::Result<Answer> {
        self.ask(Method::POST, path, Some(serde_json::to_vec(body)?)).await
    }

    /// As [`Client::get`]; inside, what the node answers when it can't give this: `Ok(None)` when it
    /// has no such thing.
    pub async fn find(&self, path: &str) -> anyhow::Result<anyhow::Result<Option<Answer>>> {
        let answer = self.exchange(Method::GET, path, None).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(Ok(None));
        }
        Ok(answer.or_failure().await.map(Some))
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> anyhow::Result<Answer> {
        self.exchange(method, path, body).await?.or_failure().await
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> anyhow::Result<Answer> {
        Ok(match self {
            Client::Node(client) => {
                let mut request = client.request(method, format!("http://localhost{path}"));
                if let Some(body) = body {
                    request = request.header("content-type", "application/json").body(body);
                }
                let response = request.send().await.context("the running node does not answer")?;
                let status = response.status();
                Answer { status, body: Box::pin(response.bytes_stream().map(|chunk| Ok(chunk?))) }
            }
            Client::Folder { routes, .. } => {
                let mut request = Request::builder().method(method).uri_str(path);
                if body.is_some() {
                    request = request.content_type("application/json");
                }
                let request = request.body(body.unwrap_or_default());
                let response = routes.get_response(request).await;
                let status = response.status();
                let stream = response.into_body().into_bytes_stream();
                Answer { status, body: Box::pin(stream.map(|chunk| Ok(chunk?))) }
            }
        })
    }

    async fn close(self) {
        if let Client::Folder { foundation, .. } = self {
            foundation.close().await;
        }
    }
}

/// Some process uses the data folder, and none answers.
pub(super) fn silent_node(config: &Config) -> Failure {
    let (dir, socket) = (&config.node.data_dir, control::socket::path(&config.node.data_dir));
    let message = format!(
        "a process uses {}, but nothing answers on {}: it starts, stops or is another command, so try again; \
         or the socket was removed: then restart the node",
        dir.display(),
        socket.display()
    );
    Failure { message, exit: Exit::Failed }
}

/// A path segment that may hold anything.
pub fn segment(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

pub struct Answer {
    status: StatusCode,
    body: Pin<Box<dyn Stream<Item = anyhow::Result<Bytes>> + Send>>,
}

impl Answer {
    async fn or_failure(self) -> anyhow::Result<Answer> {
        if self.status.is_success() {
            return Ok(self);
        }
        let status = self.status;
        let body = self.whole().await?;
        match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(body) => Err(failure(body).into()),
            Err(_) => anyhow::bail!("the node answers {status}: {}", String::from_utf8_lossy(&body)),
        }
    }

    async fn whole(mut self) -> anyhow::Result<Bytes> {
        let mut whole = BytesMut::new();
        while let Some(chunk) = self.body.next().await {
            whole.extend_from_slice(&chunk?);
            anyhow::ensure!(whole.len() <= LONGEST_LINE, "the answer is too long");
        }
        Ok(whole.freeze())
    }

    pub async fn json<T: DeserializeOwned>(self) -> anyhow::Result<T> {
        Ok(serde_json::from_slice(&self.whole().await?)?)
    }

    /// Calls `each` with every line of a list as it comes.
    pub async fn each<T: DeserializeOwned>(
        mut self,
        mut each: impl FnMut(T) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut waiting = BytesMut::new();
        while let Some(chunk) = self.body.next().await {
            waiting.extend_from_slice(&chunk?);
            while let Some(end) = waiting.iter().position(|byte| *byte == b'\n') {
                let line = waiting.split_to(end + 1);
                if let Ok(error) = serde_json::from_slice::<ErrorBody>(&line) {
                    return Err(failure(error).into());
                }
                each(serde_json::from_slice(&line)?)?;
            }
            anyhow::ensure!(waiting.len() <= LONGEST_LINE, "a line of the answer is too long");
        }
        Ok(())
    }

    pub async fn list<T: DeserializeOwned>(self) -> anyhow::Result<Vec<T>> {
        let mut items = Vec::new();
        self.each(|item| {
            items.push(item);
            Ok(())
        })
        .await?;
        Ok(items)
    }

    /// Writes the body to a new file and returns its length; inside, the error of a body that did
    /// not come whole, of which no file is left.
    pub async fn save(mut self, path: &std::path::Path) -> std::io::Result<anyhow::Result<u64>> {
        use tokio::io::AsyncWriteExt;
        let mut file = tokio::fs::File::options().write(true).create_new(true).open(path).await?;
        let mut length = 0;
        while let Some(chunk) = self.body.next().await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => {
                    tokio::fs::remove_file(path).await?;
                    return Ok(Err(error));
                }
            };
            length += chunk.len() as u64;
            file.write_all(&chunk).await?;
        }
        file.sync_all().await?;
        Ok(Ok(length))
    }
}

fn failure(body: ErrorBody) -> Failure {
    let exit = if body.exit == Exit::Storage as u8 { Exit::Storage } else { Exit::Failed };
    Failure { message: body.error, exit }
}
