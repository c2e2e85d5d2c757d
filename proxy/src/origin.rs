//! The origin client: HTTP/1.1 in clear or over TLS, on bounded pools of kept connections, with a limit on every wait.
//!
//! A request on a kept connection that dies before the answer begins is sent once more on a new one, if sending it twice is
//! safe; others go on a new connection at once [RFC 9112 9.3.1]. Interim answers (1xx) go to whoever asked for them.
//! Framing that a smuggler could use is refused here, after the parser, which keeps all the fields it read (RFC 9112 6.3).

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Version, header, response::Parts};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{
    sync::{OnceCell, OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::TlsConnector;

use crate::{
    apart::set_apart,
    breaker::{Breaker, BreakerConfig, Way},
    config::Config,
    fairness::Tab,
    gated::client_pace,
    interim::Interim,
    patience::{Pace, Patience},
    reason::Failure,
    request_body::{RequestBody, Watch},
    resolve::Resolver,
    stats::Counters,
    url::{OriginUrl, Scheme},
};

/// Where an origin is spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Upstream {
    pub(crate) scheme: Scheme,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The operator named it: the guard lets its addresses pass.
    pub(crate) exempt: bool,
    /// Where else to go when no connection can be made.
    pub(crate) next: Option<Arc<Self>>,
}

impl Upstream {
    /// Where a URL itself points.
    pub(crate) fn of(url: &OriginUrl, exempt: bool) -> Self {
        Self { scheme: url.scheme(), host: url.host().to_owned(), port: url.port(), exempt, next: None }
    }
}

/// Asks origins.
pub(crate) struct OriginClient {
    resolver: Resolver,
    pools: Pools,
    tls: OnceCell<Arc<ClientConfig>>,
    ca_files: Vec<PathBuf>,
    limits: crate::limits::Limits,
    breaker: Arc<BreakerConfig>,
    timeouts: crate::config::Timeouts,
    /// What is asked of clients that send bodies.
    sending: Pace,
    counters: Arc<Counters>,
}

/// The connections to all origins.
type Pools = Arc<Mutex<HashMap<Upstream, Pool>>>;

/// The connections to one origin.
struct Pool {
    places: Arc<Semaphore>,
    /// Of these, those that requests with bodies may have: half.
    uploads: Arc<Semaphore>,
    /// Those who wait for a place.
    waiting: Arc<AtomicUsize>,
    breaker: Breaker,
    idle: Vec<Connection>,
}

impl Pool {
    fn ways(&self) -> Ways {
        Ways {
            places: Arc::clone(&self.places),
            uploads: Arc::clone(&self.uploads),
            waiting: Arc::clone(&self.waiting),
            breaker: self.breaker.clone(),
        }
    }
}

/// What a request to one origin has to pass.
struct Ways {
    places: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    breaker: Breaker,
}

/// One connection.
struct Connection {
    sender: http1::SendRequest<RequestBody>,
    /// When it was last used.
    since: Instant,
}

/// What is asked of an origin.
pub(crate) struct OriginRequest<'a> {
    pub(crate) method: &'a Method,
    pub(crate) target: &'a str,
    pub(crate) fields: &'a HeaderMap,
    /// The client's, passed on as it comes; taken by the first who sends it.
    pub(crate) body: Option<Incoming>,
    /// What the body is charged to.
    pub(crate) tab: Option<Tab>,
    /// Who wants interim answers.
    pub(crate) interim: Option<Interim>,
}

impl<'a> OriginRequest<'a> {
    /// A GET.
    pub(crate) fn get(target: &'a str, fields: &'a HeaderMap) -> Self {
        Self { method: &Method::GET, target, fields, body: None, tab: None, interim: None }
    }

    fn is_repeatable(&self) -> bool {
        self.body.is_none() && matches!(*self.method, Method::GET | Method::HEAD | Method::OPTIONS)
    }

    /// The request, and who watches its body being sent, if it has one.
    fn outgoing(&mut self, pace: Pace) -> Result<(Request<RequestBody>, Option<Watch>), http::Error> {
        let (body, watch) = match self.body.take() {
            Some(incoming) => {
                let (body, watch) = RequestBody::sent_on(incoming, pace, self.tab.take());
                (body, Some(watch))
            }
            None => (RequestBody::None, None),
        };
        let mut request = Request::builder().method(self.method.clone()).uri(self.target).body(body)?;
        request.headers_mut().clone_from(self.fields);
        if let Some(interim) = self.interim.clone() {
            hyper::ext::on_informational(&mut request, move |answer| interim.push(answer.status(), answer.headers()));
        }
        Ok((request, watch))
    }
}

/// An answer whose body is still to come.
pub(crate) struct OriginAnswer {
    pub(crate) status: StatusCode,
    /// How it came.
    pub(crate) version: Version,
    pub(crate) fields: HeaderMap,
    /// Bytes of the body, if stated.
    pub(crate) length: Option<u64>,
    pub(crate) body: OriginBody,
}

/// A body; gives its connection back when it was read to its end.
pub(crate) struct OriginBody {
    incoming: Incoming,
    /// Was read, and was given back.
    again: Option<Bytes>,
    /// Kept apart: a body is small otherwise, and moved about.
    patience: Box<Patience>,
    counters: Arc<Counters>,
    connection: Option<(Connection, Upstream, Pools)>,
    /// Among those allowed to this origin at a time.
    place: Option<OwnedSemaphorePermit>,
    idle_limit: usize,
}

impl OriginClient {
    pub(crate) fn new(config: &Config, resolver: Resolver, counters: Arc<Counters>) -> Self {
        Self {
            resolver,
            pools: Arc::default(),
            tls: OnceCell::new(),
            ca_files: config.ca_files.clone(),
            limits: config.limits.clone(),
            breaker: Arc::new(config.breaker.clone()),
            timeouts: config.timeouts.clone(),
            sending: client_pace(config),
            counters,
        }
    }

    /// Sends a request and waits for the head of the answer.
    pub(crate) async fn ask(&self, to: &Upstream, request: OriginRequest<'_>) -> Result<OriginAnswer, Failure> {
        self.counters.origin_request();
        let began = Instant::now();
        let found = self.ask_each(to, request).await;
        self.counters
            .origin_answer(found.as_ref().map(|answer| answer.status).map_err(|failure| *failure), began.elapsed());
        found
    }

    /// Goes on to the next origin where no connection can be made.
    async fn ask_each(&self, mut to: &Upstream, mut request: OriginRequest<'_>) -> Result<OriginAnswer, Failure> {
        loop {
            let found = self.ask_in_turn(to, &mut request).await;
            let unreachable = matches!(
                found,
                Err(Failure::ConnectRefused
                    | Failure::ConnectTimeout
                    | Failure::DnsError
                    | Failure::DnsTimeout
                    | Failure::Tls
                    | Failure::CircuitOpen
                    | Failure::OriginBusy)
            );
            match to.next.as_deref().filter(|_| unreachable) {
                Some(next) => to = next,
                None => return found,
            }
        }
    }

    async fn ask_in_turn(&self, to: &Upstream, request: &mut OriginRequest<'_>) -> Result<OriginAnswer, Failure> {
        let Ways { places, uploads, waiting, breaker } = self.ways(to);
        let mut way = breaker.enter()?;
        // A body comes as slowly as its client sends it: uploads leave places to others.
        let _upload = match request.body.is_some() {
            true => Some(self.place(uploads, &waiting).await?),
            false => None,
        };
        let place = self.place(places, &waiting).await?;
        let answer = self.ask_placed(to, request, &mut way).await;
        if way.ended(answer.as_ref().err().copied()) {
            tracing::warn!(host = to.host, port = to.port, "this origin is left alone for a while");
            metrics::counter!("atoll_origin_circuit_opened_total").increment(1);
        }
        let mut answer = answer?;
        answer.body.place = Some(place);
        Ok(answer)
    }

    /// A place among the connections to one origin; held while the answer is read. A kept connection that nobody uses holds none.
    async fn place(&self, places: Arc<Semaphore>, waiting: &AtomicUsize) -> Result<OwnedSemaphorePermit, Failure> {
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            return Ok(place);
        }
        let queued = Queued(waiting);
        if queued.0.fetch_add(1, Ordering::Relaxed) >= self.limits.origin_queue {
            return Err(Failure::OriginBusy);
        }
        match timeout(self.timeouts.connect, places.acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(Failure::OriginBusy),
        }
    }

    /// Origins that are left alone now.
    pub(crate) fn open_circuits(&self) -> usize {
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.values().filter(|pool| pool.breaker.is_open()).count()
    }

    async fn ask_placed(
        &self,
        to: &Upstream,
        request: &mut OriginRequest<'_>,
        way: &mut Way,
    ) -> Result<OriginAnswer, Failure> {
        if request.is_repeatable()
            && let Some(kept) = self.kept(to)
        {
            match self.send(kept, to, request).await {
                Ok(answer) => return answer,
                Err(Unsent) => tracing::debug!(host = to.host, "a kept connection had died; once more on a new one"),
            }
        }
        // Large beside what a kept connection needs, and each flight has room for its largest step.
        let fresh = Box::pin(self.connect(to)).await?;
        // A probe too, where nothing but uploads comes; but no slow one keeps others out of an origin that is back.
        if request.body.is_some() {
            way.step_aside();
        }
        self.send(fresh, to, request).await.unwrap_or(Err(Failure::ResponseIncomplete))
    }

    /// `Err(Unsent)`: the connection closed before any of an answer came.
    async fn send(
        &self,
        mut connection: Connection,
        to: &Upstream,
        request: &mut OriginRequest<'_>,
    ) -> Result<Result<OriginAnswer, Failure>, Unsent> {
        let Ok((outgoing, watch)) = request.outgoing(self.sending) else { return Ok(Err(Failure::Request)) };
        let (first_byte, idle) = (self.timeouts.first_byte, self.timeouts.origin_idle);
        let answer = connection.sender.send_request(outgoing);
        let answered = match watch {
            None => timeout(first_byte, answer).await.map_err(|_| Failure::ResponseTimeout),
            Some(mut watch) => tokio::select! {
                biased;
                answered = answer => watch.broken().filter(|_| answered.is_err()).map_or(Ok(answered), Err),
                failure = watch.late(first_byte, idle) => Err(failure),
            },
        };
        let response = match answered {
            Err(failure) => return Ok(Err(failure)),
            Ok(Err(error)) if error.is_canceled() || error.is_closed() || error.is_incomplete_message() => {
                return Err(Unsent);
            }
            Ok(Err(error)) if error.is_parse() => return Ok(Err(Failure::Protocol)),
            // A reset on a kept connection is as good as a close: nothing of an answer came.
            Ok(Err(_)) => return Err(Unsent),
            Ok(Ok(response)) => response,
        };
        let (parts, incoming) = response.into_parts();
        Ok(framing(&parts, self.limits.fields).map(|framing| {
            let mut fields = parts.headers;
            set_apart(&mut fields);
            if framing.drop_length {
                fields.remove(header::CONTENT_LENGTH);
            }
            let bodiless = *request.method == Method::HEAD
                || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
            let keep = framing.reusable.then(|| (connection, to.clone(), Arc::clone(&self.pools)));
            let body = OriginBody {
                incoming,
                again: None,
                patience: Box::new(Patience::new(Pace {
                    silence: idle,
                    debt: self.timeouts.origin_slow,
                    rate: self.limits.slowest_origin,
                })),
                counters: Arc::clone(&self.counters),
                connection: keep,
                place: None,
                idle_limit: self.limits.origin_idle,
            };
            let length = if bodiless { Some(0) } else { framing.length };
            OriginAnswer { status: parts.status, version: parts.version, fields, length, body }
        }))
    }

    /// A kept connection that still seems to live.
    fn kept(&self, to: &Upstream) -> Option<Connection> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let pool = pools.get_mut(to)?;
        while let Some(connection) = pool.idle.pop() {
            let young = connection.since.elapsed() < self.timeouts.origin_keep_alive;
            if young && connection.sender.is_ready() && !connection.sender.is_closed() {
                return Some(connection);
            }
        }
        None
    }

    async fn connect(&self, to: &Upstream) -> Result<Connection, Failure> {
        let stream = self.resolver.dial(&to.host, to.port, to.exempt).await?;
        let sender = match to.scheme {
            Scheme::Http => self.handshake(stream).await?,
            Scheme::Https => {
                let connector = TlsConnector::from(self.tls().await?);
                let name = ServerName::try_from(to.host.clone()).map_err(|_| Failure::Tls)?;
                let stream = match timeout(self.timeouts.connect, connector.connect(name, stream)).await {
                    Ok(Ok(stream)) => stream,
                    Ok(Err(error)) => {
                        tracing::debug!(host = to.host, %error, "TLS with the origin failed");
                        return Err(Failure::Tls);
                    }
                    Err(_) => return Err(Failure::ConnectTimeout),
                };
                self.handshake(stream).await?
            }
        };
        Ok(Connection { sender, since: Instant::now() })
    }

    async fn handshake<S>(&self, stream: S) -> Result<http1::SendRequest<RequestBody>, Failure>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let limit = usize::try_from(self.limits.response_head).unwrap_or(usize::MAX);
        let (sender, connection) = http1::Builder::new()
            .max_header_size(limit)
            .max_buf_size(limit.max(PARSER_MINIMUM))
            .max_headers(self.limits.fields)
            // Spaces before colons are taken out and folded lines joined, not refused [RFC 9112 5.1, 5.2].
            .allow_spaces_after_header_name_in_responses(true)
            .allow_obsolete_multiline_headers_in_responses(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| Failure::ConnectRefused)?;
        // Ends when the sender and the body are dropped, or the origin closes.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::trace!(%error, "connection to an origin ended");
            }
        });
        Ok(sender)
    }

    /// The connections allowed to one origin, and its breaker. Origins that are not spoken to make room for others, well ones first.
    fn ways(&self, to: &Upstream) -> Ways {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(to) {
            return pool.ways();
        }
        let allowed = self.limits.origin_connections;
        if pools.len() >= self.limits.remembered {
            pools.retain(|_, pool| pool.places.available_permits() < allowed || pool.breaker.is_open());
        }
        if pools.len() >= self.limits.remembered {
            pools.retain(|_, pool| pool.places.available_permits() < allowed);
        }
        let pool = pools.entry(to.clone()).or_insert_with(|| Pool {
            places: Arc::new(Semaphore::new(allowed)),
            uploads: Arc::new(Semaphore::new(allowed.div_ceil(2))),
            waiting: Arc::default(),
            breaker: Breaker::new(&self.breaker),
            idle: Vec::new(),
        });
        pool.ways()
    }

    async fn tls(&self) -> Result<Arc<ClientConfig>, Failure> {
        let files = self.ca_files.clone();
        let made = self.tls.get_or_try_init(|| async {
            let roots = tokio::task::spawn_blocking(move || roots(&files)).await.map_err(|_| Failure::Internal)?;
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let mut config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(|_| Failure::Internal)?
                .with_root_certificates(roots)
                .with_no_client_auth();
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            Ok(Arc::new(config))
        });
        made.await.cloned()
    }
}

/// The system's roots and those of the files. One that cannot be read is left out, loudly.
fn roots(files: &[PathBuf]) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "a root certificate of the system could not be read");
    }
    roots.add_parsable_certificates(native.certs);
    for file in files {
        match CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>) {
            Ok(certificates) => {
                roots.add_parsable_certificates(certificates);
            }
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "a file of root certificates could not be read")
            }
        }
    }
    roots
}

impl OriginBody {
    /// The next piece; `None` at the proper end. A body cut short is a failure, never an end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        if let Some(data) = self.again.take() {
            return Ok(Some(data));
        }
        loop {
            let due = self.patience.wait(Instant::now(), 1);
            match timeout_at(due, self.incoming.frame()).await {
                Err(_) => return Err(Failure::ResponseTimeout),
                Ok(Some(Err(_))) => return Err(Failure::ResponseIncomplete),
                Ok(Some(Ok(frame))) => {
                    // Trailers are dropped.
                    let Ok(data) = frame.into_data() else { continue };
                    if !data.is_empty() {
                        self.patience.came(Instant::now(), data.len(), 1);
                        self.counters.origin_bytes(data.len());
                        return Ok(Some(data));
                    }
                }
                Ok(None) => {
                    self.give_back();
                    return Ok(None);
                }
            }
        }
    }

    /// What was read comes first again.
    pub(crate) fn put_back(&mut self, data: Bytes) {
        self.again = Some(data).filter(|data| !data.is_empty());
    }

    fn give_back(&mut self) {
        let place = self.place.take();
        let Some((mut connection, to, pools)) = self.connection.take() else { return };
        let limit = self.idle_limit;
        if connection.sender.is_ready() {
            keep(connection, &to, &pools, limit);
            return;
        }
        // The parser says a moment later whether the connection can be used again.
        tokio::spawn(async move {
            if connection.sender.ready().await.is_ok() {
                keep(connection, &to, &pools, limit);
            }
            // Whoever gets the place next finds the connection.
            drop(place);
        });
    }
}

/// Keeps a connection for the next request, if there is room for it.
fn keep(mut connection: Connection, to: &Upstream, pools: &Pools, limit: usize) {
    connection.since = Instant::now();
    let mut pools = pools.lock().unwrap_or_else(PoisonError::into_inner);
    let idle: usize = pools.values().map(|pool| pool.idle.len()).sum();
    if idle < limit
        && let Some(pool) = pools.get_mut(to)
    {
        pool.idle.push(connection);
    }
}

impl std::fmt::Debug for OriginBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OriginBody").finish_non_exhaustive()
    }
}

/// One who waits for a place.
struct Queued<'a>(&'a AtomicUsize);

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The connection died before any of an answer came.
struct Unsent;

/// How a response's end is found.
struct Framing {
    length: Option<u64>,
    /// Content-Length contradicts Transfer-Encoding and loses.
    drop_length: bool,
    reusable: bool,
}

/// RFC 9112 6.3, strictly: what two parsers could read in two ways is refused, and after a contradiction nothing more is read.
fn framing(head: &Parts, fields: usize) -> Result<Framing, Failure> {
    if head.headers.len() > fields || head.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Failure::Protocol);
    }
    let mut lengths = head.headers.get_all(header::CONTENT_LENGTH).iter();
    let length = match (lengths.next(), lengths.next()) {
        (None, _) => None,
        (Some(_), Some(_)) => return Err(Failure::Protocol),
        (Some(value), None) => {
            let text = value.to_str().map_err(|_| Failure::Protocol)?;
            if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(Failure::Protocol);
            }
            Some(text.parse().map_err(|_| Failure::Protocol)?)
        }
    };
    let mut codings = head.headers.get_all(header::TRANSFER_ENCODING).iter();
    let (chunked, unknown) = match (codings.next(), codings.next()) {
        (None, _) => (false, false),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => (true, false),
        // No coding that anybody speaks: the field means nothing, but the body goes on to the end of the connection [RFC 9112 6.3].
        (Some(coding), None) if is_no_coding(coding.as_bytes()) => (false, true),
        (Some(_), _) => return Err(Failure::Protocol),
    };
    if (chunked || unknown) && head.version == Version::HTTP_10 {
        return Err(Failure::Protocol);
    }
    let coded = chunked || unknown;
    let both = coded && length.is_some();
    Ok(Framing { length: if coded { None } else { length }, drop_length: both, reusable: !both && !unknown })
}

/// One token, and not one of the codings of RFC 9112 7, whose bytes would have to be decoded.
fn is_no_coding(coding: &[u8]) -> bool {
    let known = [&b"chunked"[..], b"gzip", b"x-gzip", b"compress", b"x-compress", b"deflate"];
    !coding.is_empty()
        && coding.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
        && !known.iter().any(|known| coding.eq_ignore_ascii_case(known))
        && !coding.to_ascii_lowercase().windows(7).any(|part| part == b"chunked")
}

/// The least buffer the parser accepts.
const PARSER_MINIMUM: usize = 8 << 10;
