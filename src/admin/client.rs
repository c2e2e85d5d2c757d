//! The other end: `atoll status` and `atoll explain` ask a node on this machine over its Unix socket.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http::Method;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;

use crate::status::Status;

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers at the socket.
    #[error("no node answers at {}: {error}; is it running? `--config FILE` or `--socket PATH` says which one is meant", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Something answers that is no node, or one that is stuck.
    #[error("what answers at {} is no node: {reason}", path.display())]
    Strange {
        /// The socket.
        path: PathBuf,
        /// What was wrong.
        reason: String,
    },
    /// The node will not do it.
    #[error("{reason}")]
    Refused {
        /// Why.
        reason: String,
    },
}

/// Asks the node behind this socket, for at most five seconds.
pub async fn fetch_status(socket: &Path) -> Result<Status, ClientError> {
    let body = ask_patiently(socket, Method::GET, "/status", PATIENCE).await?;
    read(socket, &body)
}

/// Asks it something it answers with a list of lines.
pub async fn fetch_lines(socket: &Path, path: &str) -> Result<Vec<String>, ClientError> {
    let body = ask_patiently(socket, Method::GET, path, PATIENCE).await?;
    read(socket, &body)
}

/// Asks it something that takes the network's time to answer.
pub async fn fetch_slowly<T: serde::de::DeserializeOwned>(socket: &Path, path: &str) -> Result<T, ClientError> {
    let late = |_| ClientError::Strange { path: socket.to_owned(), reason: format!("no answer within {LONG:?}") };
    let body = tokio::time::timeout(LONG, ask(socket, Method::GET, path)).await.map_err(late)??;
    read(socket, &body)
}

fn read<T: serde::de::DeserializeOwned>(socket: &Path, body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body)
        .map_err(|error| ClientError::Strange { path: socket.to_owned(), reason: error.to_string() })
}

/// Asks the node behind this socket to leave well. Returns at once.
pub async fn ask_drain(socket: &Path) -> Result<(), ClientError> {
    post(socket, "/drain", PATIENCE).await.map(|_| ())
}

/// Has it stop at once.
pub async fn ask_stop(socket: &Path) -> Result<(), ClientError> {
    post(socket, "/stop", PATIENCE).await.map(|_| ())
}

/// Has it do something, and waits so long for its answer.
pub async fn post(socket: &Path, path: &str, patience: Duration) -> Result<bytes::Bytes, ClientError> {
    ask_patiently(socket, Method::POST, path, patience).await
}

async fn ask_patiently(
    socket: &Path,
    method: Method,
    path: &str,
    patience: Duration,
) -> Result<bytes::Bytes, ClientError> {
    let late = |_| ClientError::Strange { path: socket.to_owned(), reason: format!("no answer within {patience:?}") };
    tokio::time::timeout(patience, ask(socket, method, path)).await.map_err(late)?
}

#[cfg(unix)]
async fn ask(socket: &Path, method: Method, path: &str) -> Result<bytes::Bytes, ClientError> {
    let unreachable = |error| ClientError::Unreachable { path: socket.to_owned(), error };
    let strange = |reason: String| ClientError::Strange { path: socket.to_owned(), reason };
    let stream = tokio::net::UnixStream::connect(socket).await.map_err(unreachable)?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| strange(error.to_string()))?;
    let request = http::Request::builder().method(method).uri(path).header(http::header::HOST, "localhost");
    let request = request.body(Empty::<bytes::Bytes>::new());
    let request = request.map_err(|error| strange(error.to_string()))?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(|error| strange(error.to_string()))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), BODY_LIMIT).collect().await;
        let body = body.map_err(|error| strange(error.to_string()))?.to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        // Problem details [RFC 9457] say why.
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        Err(match problem["detail"].as_str() {
            Some(detail) => ClientError::Refused { reason: crate::out::plain(detail) },
            None => strange(format!("it answered {status}")),
        })
    };
    tokio::select! {
        answer = exchange => answer,
        ended = connection => Err(strange(ended.err().map_or_else(|| "it hung up".to_owned(), |error| error.to_string()))),
    }
}

#[cfg(not(unix))]
async fn ask(socket: &Path, _: Method, path: &str) -> Result<bytes::Bytes, ClientError> {
    let error = io::Error::other(format!("{path} cannot be asked for here: there are no Unix sockets"));
    std::future::ready(Err(ClientError::Unreachable { path: socket.to_owned(), error })).await
}

/// How long a node may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long it may take to find something out.
const LONG: Duration = Duration::from_secs(90);

/// Bytes a status may have.
const BODY_LIMIT: usize = 4 * 1024 * 1024;
