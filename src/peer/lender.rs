//! What a running peer holds, and how it answers clients: from its own copy or the network's, within the rate and quota it was lent
//! with.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use atoll_overlay::Level;
use atoll_proxy::Early;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use crate::{
    Node,
    front::{
        ask::Place,
        body::{FrontBody, json, text},
        listen::{Client, Desk},
        service::{Service, refused},
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
    pub(crate) service: Service,
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
    pub(crate) fn new(own: Own, manager: Place, service: Service, node: Node) -> Self {
        let Own { name, weight } = own;
        Self {
            name,
            weight,
            manager,
            service,
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
            self.service.meter.set_url(&session.url);
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
        if self.service.meter.quota_left() == Some(0) {
            return self.spent();
        }
        let target = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        self.service.answer(client, target, request).await
    }

    fn spent(&self) -> Response<FrontBody> {
        let mut answer =
            text(StatusCode::SERVICE_UNAVAILABLE, "this machine has sent what it was lent for; ask the manager");
        let after = HeaderValue::from(self.service.meter.quota_again_in());
        answer.headers_mut().insert(header::RETRY_AFTER, after);
        answer
    }
}

impl Desk for Lender {
    fn service(&self) -> &Service {
        &self.service
    }

    fn decide(&self, _: Client, target: &str, _: &mut Vec<u8>) -> Early {
        let path = target.split('?').next().unwrap_or_default();
        let own = target.starts_with("/_") || path == HEALTH;
        let free = self.service.meter.is_free() && self.service.meter.quota_left() != Some(0);
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
        if let Some(refused) = refused(&request) {
            return refused;
        }
        self.serve(client, &request.map(|_| ())).await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
