//! One connection from its accept to its end: TLS if it is wanted, then what is spoken on it, HTTP/1.1 behind the gate or HTTP/2
//! behind its like. The head's deadline runs from accept, through all of that.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, task::Poll};

use atoll_overlay::NodeId;
use bytes::BytesMut;
use http::{Request, Response};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
    time::{Instant, timeout_at},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    body::Body,
    cache::Cache,
    calm::Calmed,
    config::Config,
    gate::{HeadLimits, OwnSite, judge_parsed},
    gated::{Gated, Waits, client_pace},
    hot::Hot,
    http2::{Paced, Streams},
    receive::Origin,
    serve_peer,
    server::{Phase, draining},
    step,
    url::Authority,
    wire::{Rewound, Spoken, sniff},
};

/// Serves one client's connection to its end.
pub(crate) async fn serve(
    cache: Arc<Cache>,
    mut stream: TcpStream,
    client: SocketAddr,
    tls: Option<TlsAcceptor>,
    (accepted, phases): (Instant, watch::Receiver<Phase>),
) {
    let until = accepted + cache.config.timeouts.head;
    // Who has said nothing yet is owed nothing.
    let drained = draining(phases.clone());
    let secure = tls.is_some();
    let Some(tls) = tls else {
        let Some(Ok((before, spoken))) = unless(drained, sniff(&mut stream, until)).await else { return };
        return Client { cache, client, secure, accepted, phases }.speak(stream, before, spoken).await;
    };
    // A handshake is a head too: whoever dawdles over it is let go.
    let begun = Box::pin(async {
        let mut stream = timeout_at(until, tls.accept(stream)).await??;
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            return Ok::<_, io::Error>((stream, BytesMut::new(), Spoken::Two));
        }
        let (before, spoken) = sniff(&mut stream, until).await?;
        Ok((stream, before, spoken))
    });
    let Some(Ok((stream, before, spoken))) = unless(drained, begun).await else { return };
    Box::pin(Client { cache, client, secure, accepted, phases }.speak(stream, before, spoken)).await;
}

/// What comes of a future, unless something else happens first.
async fn unless<T>(before: impl Future<Output = ()>, future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        found = future => Some(found),
        () = before => None,
    }
}

struct Client {
    cache: Arc<Cache>,
    client: SocketAddr,
    secure: bool,
    accepted: Instant,
    phases: watch::Receiver<Phase>,
}

impl Client {
    async fn speak<S>(self, stream: S, before: BytesMut, spoken: Spoken)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        match spoken {
            Spoken::One => self.one(stream, before).await,
            // Large beside what a waiting HTTP/1 connection needs.
            Spoken::Two => Box::pin(self.two(stream, before)).await,
        }
    }

    async fn one<S>(self, stream: S, before: BytesMut)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Self { cache, client, secure, accepted, phases } = self;
        let counters = Arc::clone(&cache.counters);
        let _spoke = counters.speaks_h1();
        let waits = Waits::of(&cache.config);
        let own = own_sites(&cache);
        let limits = head_limits(&cache);
        let mut gated = Gated::new(stream, accepted, (limits, waits), own, Arc::clone(&cache.counters));
        gated.read_before(before);
        let from = Origin { client, secure, interim: None };
        gated.answer_with(Hot::new(Arc::clone(&cache), from.clone(), limits));
        let mut drained = std::pin::pin!(draining(phases.clone()));
        let mut watched = false;
        loop {
            // Whoever is owed nothing is let go when the proxy drains. That is looked at when it changes, not at each request.
            let next = std::future::poll_fn(|cx| {
                if let Poll::Ready(next) = gated.poll_head(cx) {
                    return Poll::Ready(next);
                }
                if gated.owes() || std::mem::replace(&mut watched, true) && !phases.has_changed().unwrap_or(true) {
                    return Poll::Pending;
                }
                drained.as_mut().poll(cx).map(|()| Ok(false))
            })
            .await;
            match next {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => return tracing::trace!(%error, "a connection ended early"),
            }
            let mut from = from.clone();
            from.interim = Some(gated.interim());
            let handle = |mut request: Request<Incoming>| {
                request.extensions_mut().insert(from.clone());
                // The parser moves what it is to wait for several times.
                Box::pin(step::handle(Arc::clone(&cache), request.map(Some)))
            };
            // A parser lives for one request: what it holds is not held by connections that wait. Its state is large, theirs not.
            let ended = Box::pin(serve_one(&mut gated, phases.clone(), true, limits.fields, handle)).await;
            if !gated.take_back() || !ended {
                return;
            }
        }
        if let Err(error) = gated.shutdown().await {
            tracing::trace!(%error, "a connection ended early");
        }
    }

    async fn two<S>(self, stream: S, before: BytesMut)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Self { cache, client, secure, accepted, phases } = self;
        let counters = Arc::clone(&cache.counters);
        let _spoke = counters.speaks_h2();
        let limits = head_limits(&cache);
        let calm = (cache.config.limits.idle_frames, accepted + cache.config.timeouts.head);
        let from = Origin { client, secure, interim: None };
        let pace = client_pace(&cache.config);
        let streams = Streams::new(pace);
        let builder = builder(&cache.config, streams.clone());
        let keep_alive = cache.config.timeouts.keep_alive;
        let own = own_sites(&cache);
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(from.clone());
            let (cache, own) = (Arc::clone(&cache), Arc::clone(&own));
            async move {
                let response = match judge_parsed(&request, limits, &*own) {
                    Ok(()) => step::handle(Arc::clone(&cache), request.map(Some)).await,
                    Err(refusal) => step::turned_away(&cache, &request, refusal),
                };
                Ok::<_, Infallible>(response.map(Paced::new))
            }
        });
        let stream = Calmed::new(Rewound::new(stream, before, pace), calm, streams.clone());
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            // First: what was asked by now counts before it is looked whether anything was.
            biased;
            ended = connection.as_mut() => ended,
            () = streams.idle(keep_alive) => {
                connection.as_mut().graceful_shutdown();
                // What was handed on last may still wait for the client's window, and what it asked before it knew is under way.
                unless(streams.still(), connection).await.unwrap_or(Ok(()))
            }
            () = draining(phases) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::trace!(%error, "a connection ended early");
        }
    }
}

/// HTTP/2 as the settings say.
fn builder(config: &Config, streams: Streams) -> http2::Builder<Streams> {
    let bytes = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
    let two = &config.http2;
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(two.streams)
        .max_header_list_size(bytes(config.limits.head))
        .initial_stream_window_size(bytes(two.window))
        .initial_connection_window_size(two.connection_window())
        .max_send_buf_size(usize::try_from(two.send_buffer).unwrap_or(usize::MAX))
        .max_pending_accept_reset_streams(two.resets)
        .max_local_error_reset_streams(two.resets)
        .keep_alive_interval(two.ping)
        .keep_alive_timeout(two.pong);
    builder
}

/// Serves one stream that a peer opened.
pub(crate) async fn serve_peer<S>(cache: Arc<Cache>, (peer, stream): (NodeId, S), phases: watch::Receiver<Phase>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let waits = Waits { keep_alive: cache.config.timeouts.head, ..Waits::of(&cache.config) };
    let own = Arc::new(|_: &Authority| false);
    let limits = peer_limits(&cache);
    let gated = Gated::new(stream, Instant::now(), (limits, waits), own, Arc::clone(&cache.counters));
    let fields = cache.config.limits.fields;
    let handle = move |request| serve_peer::handle(Arc::clone(&cache), peer, request);
    serve_one(gated, phases, false, fields, handle).await;
}

/// Serves one gated stream to its end: whether that was a proper one.
async fn serve_one<S, F, R>(
    gated: S,
    phases: watch::Receiver<Phase>,
    keep_alive: bool,
    fields: usize,
    handle: F,
) -> bool
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
    F: Fn(Request<Incoming>) -> R,
    R: Future<Output = Response<Body>>,
{
    let service = service_fn(|request| {
        let response = handle(request);
        async move { Ok::<_, Infallible>(response.await) }
    });
    // Half-closed connections are kept: the parser then never reads ahead of its answers, as the gate needs.
    let mut parser = http1::Builder::new();
    parser.half_close(true).keep_alive(keep_alive);
    // Told a number, it takes room for so many from the heap for each head.
    if fields > PARSER_FIELDS_UNTOLD {
        parser.max_headers(PARSER_FIELDS);
    }
    let connection = parser.serve_connection(TokioIo::new(gated), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = draining(phases) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = &ended {
        tracing::trace!(%error, "a connection ended early");
    }
    ended.is_ok()
}

/// What the gate asks about a host.
fn own_sites(cache: &Cache) -> Arc<OwnSite> {
    let sites = Arc::clone(&cache.sites);
    Arc::new(move |authority| sites.find(authority).is_some())
}

pub(crate) fn head_limits(cache: &Cache) -> HeadLimits {
    let limits = &cache.config.limits;
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    HeadLimits {
        head: size(limits.head),
        target: size(limits.target),
        fields: limits.fields.min(PARSER_FIELDS),
        field: size(limits.field),
    }
}

/// A peer's head holds a whole URL, or purges, in one field: only the head as a whole is bounded. What clients may ask for, nodes must
/// be able to ask of each other.
fn peer_limits(cache: &Cache) -> HeadLimits {
    let limits = head_limits(cache);
    HeadLimits { field: limits.head, ..limits }
}

/// Fields the parser behind the gate takes; the gate's limit is never above it.
const PARSER_FIELDS: usize = 256;

/// Fields it takes, on its stack, if it is told nothing.
const PARSER_FIELDS_UNTOLD: usize = 100;
