//! Several managers in one network: a second one is started beside the first, with the first's login. It makes a key of its own; the
//! first grants it to admit machines, for 90 days, and it asks again in good time. From then on neither needs the other: each has its
//! own tokens, its own machines and its own page, and all machines find each other's copies.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `POST /_atoll/knock` | | a nonce, as for machines that join |
//! | `POST /_atoll/beside` | [`Ask`], proved by the login | [`Shared`], proved in turn |
//!
//! No secret crosses the network: the login is proved, and the new manager's key stays with it.

use std::time::Duration;

use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::{
    membership::Keys,
    office::{Kepts, Network, Office},
    token::{Secret, nonce},
    wire::Challenge,
};
use crate::front::{
    ask::{Bounds, Line, Place, Question},
    body::{FrontBody, json, text},
    listen::Client,
    meter::unix_now,
};

/// A manager asks to be beside this one.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Ask {
    nonce: String,
    own_nonce: String,
    /// The public half of its admission key.
    key: String,
    version: String,
    proof: String,
}

/// What it then knows.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Shared {
    /// The network's name.
    name: String,
    /// The network's public key.
    network: String,
    /// What its key may do.
    grant: String,
    /// Nodes to ask first, `HOST:PORT`.
    seeds: Vec<String>,
    /// Proof that the first manager, too, knows the login: of all the above.
    proof: String,
}

/// The first manager.
#[derive(Debug, Clone)]
pub(crate) struct First {
    pub(crate) place: Place,
    pub(crate) login: Secret,
}

/// Why there is no place beside the first.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotBeside {
    /// It cannot be asked now.
    #[error("{0}")]
    Away(String),
    /// It says no, or is not what it should be.
    #[error("{0}")]
    Never(String),
}

impl Ask {
    fn parts(&self) -> [&[u8]; 5] {
        [b"beside", self.nonce.as_bytes(), self.own_nonce.as_bytes(), self.key.as_bytes(), self.version.as_bytes()]
    }

    fn session(&self, login: &Secret) -> Secret {
        login.derived("atoll beside session v1", [&self.nonce, &self.own_nonce])
    }
}

impl Shared {
    fn said(&self) -> Vec<u8> {
        serde_json::to_vec(&Self { proof: String::new(), ..self.clone() }).unwrap_or_default()
    }
}

/// Answers a manager that asks; `host` is the name it knows this machine by.
pub(super) fn answer(office: &Office, client: Client, host: &str, bytes: &[u8]) -> Response<FrontBody> {
    let refused = |why: &str| {
        tracing::warn!(client = %client.address, "no manager was let in beside this one: {why}");
        text(StatusCode::FORBIDDEN, why)
    };
    let Ok(ask) = serde_json::from_slice::<Ask>(bytes) else {
        return text(StatusCode::BAD_REQUEST, "this is no request to be beside a manager");
    };
    if !office.ledger().take(unix_now(), &ask.nonce) {
        return refused("the challenge was used already or is too old; knock again");
    }
    let login = office.login.secret();
    if !login.proves(&ask.proof, &ask.parts()) {
        return refused("wrong login: it is the token in the address of this manager's page");
    }
    let (network, grant) = match office.grant(&ask.key, client.address) {
        Ok(granted) => granted,
        Err(why) => return refused(&why),
    };
    tracing::info!(client = %client.address, key = ask.key, "a manager is beside this one in the network");
    let seeds = std::iter::once(format!("{host}:{}", office.overlay_port)).chain(office.network.seeds.iter().cloned());
    let mut shared =
        Shared { name: office.network.name.clone(), network, grant, seeds: seeds.collect(), proof: String::new() };
    shared.proof = ask.session(&login).proof(&[b"shared", &shared.said()]);
    json(StatusCode::OK, &shared)
}

/// Asks the first manager, and changes what is kept to its network. If it is away, what it granted before is good enough.
pub(super) async fn settle(first: &First, kept: &mut Kepts, fresh: bool) -> Result<(), String> {
    if !fresh && kept.keys.is_own() {
        return Err(
            "this state directory keeps a network of its own: begin with another one, by --state DIRECTORY".to_owned()
        );
    }
    match ask(first, (!fresh).then_some(&kept.keys)).await {
        Ok((network, keys)) => {
            if !fresh && network.name != kept.network.name {
                return Err(
                    "the manager there keeps another network now: begin with another --state DIRECTORY".to_owned()
                );
            }
            kept.network = Network { port: kept.network.port, ..network };
            kept.keys = keys;
            Ok(())
        }
        Err(NotBeside::Away(why)) if !fresh => {
            tracing::warn!(manager = %first.place, "the first manager is away: {why}; going on with what it granted");
            Ok(())
        }
        Err(why) => Err(format!("no place beside {}: {why}", first.place)),
    }
}

/// The network, and keys in it: the same ones if there were some, for a further term.
pub(super) async fn ask(first: &First, keys: Option<&Keys>) -> Result<(Network, Keys), NotBeside> {
    let away = |error: crate::front::ask::AskError| NotBeside::Away(error.to_string());
    let mut line = Line::to(first.place.clone());
    let knocked = line.ask(Question::post("/_atoll/knock", &()), BOUNDS).await.map_err(away)?;
    let challenge: Challenge = knocked.json().map_err(away)?;
    let request = match keys {
        Some(keys) => keys.request().map_err(NotBeside::Never)?,
        None => Keys::fresh_request().map_err(NotBeside::Never)?,
    };
    let mut ask = Ask {
        nonce: challenge.nonce,
        own_nonce: nonce(),
        key: request.key().to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        proof: String::new(),
    };
    ask.proof = first.login.proof(&ask.parts());
    let reply = line.ask(Question::post("/_atoll/beside", &ask), BOUNDS).await.map_err(away)?;
    match reply.status {
        StatusCode::OK => {}
        StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND => {
            return Err(NotBeside::Never(reply.line()));
        }
        other => return Err(NotBeside::Away(format!("it answers {other}: {}", reply.line()))),
    }
    let shared: Shared = reply.json().map_err(away)?;
    if !ask.session(&first.login).proves(&shared.proof, &[b"shared", &shared.said()]) {
        return Err(NotBeside::Never(
            "what answers there does not know the login: it is no manager of yours".to_owned(),
        ));
    }
    let keys = Keys::granted(request, &shared.network, &shared.grant).map_err(NotBeside::Never)?;
    let seeds = shared.seeds.into_iter().take(SEEDS).collect();
    Ok((Network { name: shared.name, port: 0, seeds }, keys))
}

const BOUNDS: Bounds = Bounds { time: Duration::from_secs(5), bytes: 64 << 10 };

/// Nodes of the first manager's network that are remembered.
const SEEDS: usize = 16;

/// Bytes of a request.
pub(super) const ASK_BYTES: usize = 16 << 10;
