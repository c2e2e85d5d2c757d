//! Accepting connections for the node's own small HTTP servers (admin, manager): at most so many at once, the slow timed out,
//! an error of accept waited out. The proxy, whose load is of another order, has its own.

use std::{convert::Infallible, future::Future, io, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
    task::JoinSet,
    time,
};

/// Where connections come from.
pub(crate) trait Accept: Send + Sync + 'static {
    /// A connection's bytes.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// What is known of the client.
    type Client: Copy + Send + Sync + 'static;

    /// Waits for the next one.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Self::Client)>> + Send;
}

impl Accept for TcpListener {
    type Stream = tokio::net::TcpStream;
    type Client = std::net::SocketAddr;

    async fn accept(&self) -> io::Result<(Self::Stream, Self::Client)> {
        Self::accept(self).await
    }
}

/// What answers requests.
pub(crate) trait Answer<Client>: Send + Sync + 'static {
    /// Answers one.
    fn answer(&self, client: Client, request: Request<Incoming>) -> impl Future<Output = Response<Full<Bytes>>> + Send;
}

/// What a listener grants its clients.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Connections at once; more wait in the system's backlog.
    pub(crate) connections: usize,
    /// For a request's head, also the first and also while idle.
    pub(crate) head_timeout: Duration,
}

/// Accepts and answers for ever. Dropping it cuts its connections.
pub(crate) async fn serve<A: Accept>(listener: A, limits: Limits, answer: impl Answer<A::Client> + Clone) {
    let slots = std::sync::Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, client)) => {
                let answer = answer.clone();
                connections.spawn(async move {
                    let _slot = slot;
                    serve_one(stream, client, limits, &answer).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_one<S, C>(stream: S, client: C, limits: Limits, answer: &impl Answer<C>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    C: Copy,
{
    let service = service_fn(async |request| Ok::<_, Infallible>(answer.answer(client, request).await));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    // A client that breaks off, or that does not read, is its own concern.
    let _ = time::timeout(CONNECTION_LIFE, connection).await;
}

/// After a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The longest a connection lives; a dashboard opens another.
const CONNECTION_LIFE: Duration = Duration::from_secs(600);

/// Header lines of a request.
const MAX_HEADERS: usize = 64;

/// Bytes of a request's head.
const MAX_HEAD: usize = 16 * 1024;
