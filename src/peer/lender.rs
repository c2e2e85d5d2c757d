//! What a running peer holds, and how it answers clients: from its own copy or the network's, within the rate and quota it was lent
//! with.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use atoll_overlay::Level;
use atoll_proxy::{Early, Proxy};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::{Body as _, Incoming};

use crate::{
    Node,
    front::{
        ask::Place,
        body::{FrontBody, json, text},
        listen::{Client, Desk},
        meter::Meter,
        record::Asker,
        site::Site,
    },
    manager::{
        HEALTH,
        token::Secret,
        wire::{Hello, hello_proof},
    },
    signals::or_never,
};

/// See the file's head.
pub(crate) struct Lender {
    pub(crate) name: String,
    /// How much it wants of the downloads; 100 is the norm.
    pub(crate) weight: u16,
    pub(crate) manager: Place,
    pub(crate) site: Site,
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) meter: Arc<Meter>,
    pub(crate) draining: AtomicBool,
    node: Mutex<Option<Node>>,
    session: Mutex<Option<Session>>,
}

/// What a peer says of itself.
pub(crate) struct Own {
    pub(crate) name: String,
    pub(crate) weight: u16,
}

/// What a manager knows it by now.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) key: Secret,
    /// The URL clients are led to.
    pub(crate) url: String,
}

impl Lender {
    pub(crate) fn new(
        own: Own,
        manager: Place,
        site: Site,
        node: Node,
        (proxy, meter): (Arc<Proxy>, Arc<Meter>),
    ) -> Self {
        let Own { name, weight } = own;
        Self {
            name,
            weight,
            manager,
            site,
            proxy,
            meter,
            draining: AtomicBool::new(false),
            node: Mutex::new(Some(node)),
            session: Mutex::default(),
        }
    }

    /// The session, if there is one.
    pub(crate) fn session(&self) -> Option<Session> {
        lock(&self.session).clone()
    }

    /// It was admitted, or has lost its session.
    pub(crate) fn set_session(&self, session: Option<Session>) {
        if let Some(session) = &session {
            self.meter.set_url(&session.url);
        }
        *lock(&self.session) = session;
    }

    /// Nodes of the network it knows, and objects it holds.
    pub(crate) fn surroundings(&self) -> (u64, u64) {
        let node = lock(&self.node);
        let Some(node) = node.as_ref() else { return (0, 0) };
        let widest = node.index().levels().into_iter().find(|level| level.level == Level(0));
        let neighbours = widest.map_or(0, |level| level.neighbours.len());
        (u64::try_from(neighbours).unwrap_or(u64::MAX), node.status().store.objects)
    }

    /// Waits until the operator asks the node behind to leave, by its admin API.
    pub(crate) fn drain_asked(&self) -> impl Future<Output = ()> + Send + use<> {
        or_never(lock(&self.node).as_ref().map(Node::drain_asked))
    }

    /// Waits until the operator asks the node behind to stop at once.
    pub(crate) fn stop_asked(&self) -> impl Future<Output = ()> + Send + use<> {
        or_never(lock(&self.node).as_ref().map(Node::stop_asked))
    }

    /// Stops the node behind.
    pub(crate) async fn close(&self) {
        let node = lock(&self.node).take();
        if let Some(node) = node {
            node.stop().await;
        }
    }

    /// Who this is, for somebody who dialled it.
    fn hello(&self, query: &str) -> Response<FrontBody> {
        let nonce = query.split('&').find_map(|part| part.strip_prefix("nonce=")).filter(|nonce| nonce.len() <= 64);
        let (Some(nonce), Some(session)) = (nonce, self.session()) else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "this machine has no manager now");
        };
        let proof = hello_proof(&session.key, nonce, &session.url);
        json(StatusCode::OK, &Hello { peer: self.name.clone(), proof })
    }

    async fn serve(&self, client: Client, request: &Request<()>) -> Response<FrontBody> {
        if self.meter.quota_left() == Some(0) {
            return self.spent();
        }
        let target = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let Some(inner) = self.site.request(target, request) else {
            return text(StatusCode::BAD_REQUEST, "the path cannot be handed on");
        };
        let mut answer = self.proxy.answer(inner).await;
        self.site.turn(answer.headers_mut());
        let asker = Asker::of(client.address, client.rtt_us, target, request.headers());
        self.meter.metered(asker, answer)
    }

    fn spent(&self) -> Response<FrontBody> {
        let mut answer =
            text(StatusCode::SERVICE_UNAVAILABLE, "this machine has sent what it was lent for; ask the manager");
        let after = HeaderValue::from(self.meter.quota_again_in());
        answer.headers_mut().insert(header::RETRY_AFTER, after);
        answer
    }
}

impl Desk for Lender {
    fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    fn site(&self) -> &Site {
        &self.site
    }

    fn meter(&self) -> &Meter {
        &self.meter
    }

    fn decide(&self, _: Client, target: &str, _: &mut Vec<u8>) -> Early {
        let path = target.split('?').next().unwrap_or_default();
        let own = target.starts_with("/_") || path == HEALTH;
        let free = self.meter.is_free() && self.meter.quota_left() != Some(0);
        if own || !free { Early::Later } else { Early::Stored }
    }

    async fn answer(&self, client: Client, request: Request<Incoming>) -> Response<FrontBody> {
        let path = request.uri().path();
        if path == "/_atoll/hello" {
            return self.hello(request.uri().query().unwrap_or_default());
        }
        if path.starts_with("/_atoll/") || path == "/_log" {
            return text(StatusCode::NOT_FOUND, "ask the manager for this");
        }
        if path == HEALTH {
            let draining = self.draining.load(Ordering::Relaxed);
            return if draining {
                text(StatusCode::SERVICE_UNAVAILABLE, "draining")
            } else {
                text(StatusCode::OK, "ok")
            };
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are served");
        }
        if !request.body().is_end_stream() {
            let mut answer = text(StatusCode::BAD_REQUEST, "requests with a body are not served");
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            return answer;
        }
        self.serve(client, &request.map(|_| ())).await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
