//! What is asked of the manager itself: peers that join and beat, the operator's page and buttons, the log.
//!
//! | request | who | what |
//! |---|---|---|
//! | `GET /_atoll/` | anybody | the page, which holds no secret |
//! | `POST /_atoll/knock`, `join`, `beat` | peers | see `wire` |
//! | `GET /_atoll/state` | login | all that the page shows |
//! | `GET /_log?lines=N&key=PREFIX&peer=URL&follow=1` | login | the log |
//! | `POST /_atoll/peers/NAME/drain`, `.../stop`, `.../eject` | login | the same as SIGTERM there; as a second one; never again |
//! | `POST /_atoll/drain`, `/_atoll/stop` | login | the manager itself leaves; at once |
//! | `POST /_atoll/beside` | other managers | see `beside` |
//! | `POST /_atoll/managers/KEY/eject` | login | a manager beside this one, and all it admitted, belong no more |
//! | `POST /_atoll/tokens?uses=N&expires=TIME` | login | a new token |

use std::{
    collections::BTreeMap,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use atoll_units::span;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use tokio::{
    sync::{broadcast, mpsc},
    time::timeout,
};

use super::{
    beside::{self, ASK_BYTES},
    door,
    journal::{Filter, LINES},
    ledger::Refusal,
    office::{Office, seen_at},
    page,
    roster::{Said, Standing},
    wire::{self, BEAT_BYTES, Beat, Challenge, Join, Orders, Welcome},
};
use crate::{
    front::{
        ask::Place,
        body::{FrontBody, json, pieces, text, typed},
        listen::Client,
        meter::unix_now,
    },
    percent::unescape_leniently,
};

/// Answers one request for the program itself.
pub(super) async fn answer(office: &Office, client: Client, request: Request<Incoming>) -> Response<FrontBody> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let words: Vec<&str> = path.trim_matches('/').split('/').collect();
    let is_get = matches!(head.method, Method::GET | Method::HEAD);
    match (words.as_slice(), is_get) {
        (["_atoll"], true) => page::page(),
        (["_atoll", "knock"], false) => json(StatusCode::OK, &challenge(office)),
        (["_atoll", "join"], false) => match read(body, JOIN_BYTES).await {
            Some(bytes) => join(office, client, &head, &bytes),
            None => too_much(),
        },
        (["_atoll", "beat"], false) => match read(body, BEAT_BYTES).await {
            Some(bytes) => beat(office, &head, &bytes),
            None => too_much(),
        },
        (["_atoll", "beside"], false) => match read(body, ASK_BYTES).await {
            Some(bytes) => beside::answer(office, client, host_of(office, &head).host(), &bytes),
            None => too_much(),
        },
        _ if !office.login.opens(&head.headers) => {
            let mut answer =
                text(StatusCode::UNAUTHORIZED, "log in with the token that the manager printed for its page");
            // A browser that is offered a basic login puts up a window of its own, which the page's fetches would wait for.
            let how = if path == "/_log" { "Basic realm=\"atoll manager\"" } else { "Bearer" };
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(how));
            answer
        }
        (["_log"], true) => log(office, &query(&head)),
        (["_atoll", "state"], true) => json(StatusCode::OK, &page::state(office)),
        (["_atoll", "peers", name, act @ ("drain" | "stop" | "eject")], false) => act_on(office, name, act),
        (["_atoll", "managers", key, "eject"], false) => {
            if office.part_from(key) {
                text(StatusCode::ACCEPTED, "eject")
            } else {
                text(StatusCode::NOT_FOUND, "no such manager")
            }
        }
        (["_atoll", "drain"], false) => {
            office.leave.notify_one();
            text(StatusCode::ACCEPTED, "leaving")
        }
        (["_atoll", "stop"], false) => {
            office.stop.notify_one();
            office.leave.notify_one();
            text(StatusCode::ACCEPTED, "stopping")
        }
        (["_atoll", "tokens"], false) => make_token(office, &query(&head)),
        (["_atoll", "warm", ..], _) => super::warm::answer(office, &words, is_get, read(body, JOIN_BYTES).await),
        _ => text(StatusCode::NOT_FOUND, "there is nothing of the manager's here; docs/manager.md lists what there is"),
    }
}

fn challenge(office: &Office) -> Challenge {
    Challenge {
        nonce: office.ledger().challenge(unix_now()),
        network: office.network.id_text(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn join(office: &Office, client: Client, head: &request::Parts, bytes: &[u8]) -> Response<FrontBody> {
    let refused = |why: &str| {
        let why = crate::out::plain(why);
        tracing::warn!(client = %client.address, "a machine was not admitted: {why}");
        text(StatusCode::FORBIDDEN, &why)
    };
    let Ok(join) = serde_json::from_slice::<Join>(bytes) else {
        return text(StatusCode::BAD_REQUEST, "this is no request to join");
    };
    let admitted = office.ledger().admit(unix_now(), &join);
    let admission = match admitted {
        Ok(admission) => admission,
        // Not a fault of the peer's: it comes with its token next.
        Err(Refusal::Unknown) => return text(StatusCode::UNAUTHORIZED, &Refusal::Unknown.to_string()),
        Err(why) => return refused(&why.to_string()),
    };
    let certificate = match office.certify(&join.peer, &join.node) {
        Ok(certificate) => certificate,
        Err(why) => return refused(&why),
    };
    let url =
        if join.advertise.is_empty() { Ok(seen_at(client.address, join.port)) } else { Place::parse(&join.advertise) };
    let url = match url {
        Ok(url) => url,
        Err(why) => return refused(&why),
    };
    if !office.roster().join(Instant::now(), &join.peer, (url.clone(), client.address.ip()), admission.session) {
        return refused(&Refusal::Full.to_string());
    }
    let came = if admission.new { "a machine joined" } else { "a machine is back" };
    tracing::info!(peer = join.peer, url = %url, "{came}; its address is now dialled");
    let host = host_of(office, head);
    let own = format!("{}:{}", host.host(), office.overlay_port);
    let bootstrap = std::iter::once(own).chain(office.network.seeds.iter().cloned()).collect();
    let welcome = Welcome {
        url: url.to_string(),
        origin: office.service.site.url(),
        via: door::for_peer(office, client.address, host.host()),
        network: office.network.name.clone(),
        network_id: office.network.id_text(),
        certificate,
        place: office.service.site.place().to_owned(),
        bootstrap,
        private: office.rules.private,
        proof: String::new(),
    };
    json(StatusCode::OK, &welcome.prove(&admission.session))
}

/// The name by which whoever asks knows this machine.
fn host_of(office: &Office, head: &request::Parts) -> Place {
    let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    host.and_then(|host| Place::parse(host).ok()).unwrap_or_else(|| office.own.clone())
}

fn beat(office: &Office, head: &request::Parts, bytes: &Bytes) -> Response<FrontBody> {
    let unknown = || text(StatusCode::UNAUTHORIZED, "no such session: join again");
    let Ok(beat) = serde_json::from_slice::<Beat>(bytes) else {
        return text(StatusCode::BAD_REQUEST, "this is no beat");
    };
    let proof = head.headers.get(wire::PROOF).and_then(|proof| proof.to_str().ok()).unwrap_or_default();
    let now = Instant::now();
    let mut roster = office.roster();
    let Some(session) = roster.session(&beat.peer) else { return unknown() };
    if !wire::beat_proves(&session, proof, bytes) {
        return unknown();
    }
    let (name, first) = (beat.peer.clone(), beat.first_record);
    let collected = first.saturating_add(u64::try_from(beat.records.len()).unwrap_or(0));
    let downloads = beat.downloads.into_iter().take(wire::DOWNLOADS).collect();
    let beat = Beat { downloads, ..beat };
    office.alone.store(false, Ordering::Relaxed);
    let Some(Said { mut records, checked, warmed }) = roster.beat(now, beat) else {
        return text(StatusCode::CONFLICT, "this was said before");
    };
    for came in checked.iter().take(16) {
        if let Some(why) = roster.checked(now, &name, came) {
            tracing::warn!(peer = came.peer, by = name, why, "another peer does not find this one at its address");
        }
    }
    let check = roster.ask_checks(now, &name);
    let standing = roster.standing(now, &name);
    let (drain, stop) = roster.is_to_leave(&name);
    records.truncate(wire::RECORDS);
    let known = roster.arrived(&name, first, records.len());
    drop(roster);
    if let Some(Standing::Ejected(why)) = &standing {
        return text(StatusCode::FORBIDDEN, &Refusal::Removed(why.clone()).to_string());
    }
    records.drain(..known);
    office.note(records, Some(&name));
    let standing = standing.map(|standing| standing.to_string()).unwrap_or_default();
    let warm = office.warms.orders(&name, &warmed);
    json(StatusCode::OK, &Orders { standing, collected, drain, stop, check, warm })
}

fn act_on(office: &Office, name: &str, act: &str) -> Response<FrontBody> {
    let known = match act {
        "drain" => office.roster().drain(name),
        "stop" => office.roster().stop(name),
        _ => office.eject(name, "removed by the operator"),
    };
    if known { text(StatusCode::ACCEPTED, act) } else { text(StatusCode::NOT_FOUND, "no such peer") }
}

fn make_token(office: &Office, query: &BTreeMap<String, String>) -> Response<FrontBody> {
    let uses = query.get("uses").map_or(Some(1), |uses| uses.parse().ok());
    let expires = query.get("expires").map_or(Some(DAY), |expires| span::parse(expires));
    let (Some(uses), Some(expires)) = (uses, expires) else {
        return text(StatusCode::BAD_REQUEST, "uses is a number, expires a time such as 1d");
    };
    let token = office.make_token(uses, unix_now().saturating_add(expires.as_secs()));
    json(StatusCode::OK, &serde_json::json!({ "token": token.reveal(), "uses": uses, "seconds": expires.as_secs() }))
}

fn log(office: &Office, query: &BTreeMap<String, String>) -> Response<FrontBody> {
    let lines = query.get("lines").map_or(Some(LINES), |lines| lines.parse().ok());
    let Some(lines) = lines else { return text(StatusCode::BAD_REQUEST, "lines is a number") };
    let filter = Filter { key: query.get("key").cloned(), peer: query.get("peer").cloned() };
    let (before, fresh) = office.journal.follow(&filter, lines.min(LINES));
    let mut answer = typed(StatusCode::OK, "application/x-ndjson; charset=utf-8", before.concat());
    if query.get("follow").is_some_and(|follow| follow != "0") {
        let (sender, receiver) = mpsc::channel(FOLLOW_QUEUE);
        tokio::spawn(follow(before.concat().into(), fresh, filter, sender));
        *answer.body_mut() = pieces(receiver);
    }
    answer
}

/// Sends what was and what comes until the reader goes. One that is too slow loses lines.
async fn follow(
    before: Bytes,
    mut fresh: broadcast::Receiver<super::journal::Line>,
    filter: Filter,
    sender: mpsc::Sender<Bytes>,
) {
    if !before.is_empty() && sender.send(before).await.is_err() {
        return;
    }
    loop {
        let line = tokio::select! {
            line = fresh.recv() => line,
            () = sender.closed() => return,
        };
        match line {
            Ok(line) if filter.wants(&line) => {
                if sender.send(line.text).await.is_err() {
                    return;
                }
            }
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// A body of at most so many bytes, that comes in time.
async fn read(body: Incoming, most: usize) -> Option<Bytes> {
    let body = timeout(BODY_TIMEOUT, Limited::new(body, most).collect()).await.ok()?.ok()?;
    Some(body.to_bytes())
}

fn too_much() -> Response<FrontBody> {
    text(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long, or took too long")
}

/// The query's parts; `%` escapes are read, a part without `=` is "".
fn query(head: &request::Parts) -> BTreeMap<String, String> {
    let parts = head.uri.query().unwrap_or_default().split('&').filter(|part| !part.is_empty());
    let part = |part: &str| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        (unescape_leniently(name), unescape_leniently(value))
    };
    parts.map(part).collect()
}

/// How the manager itself is leaving or not, for the page.
pub(super) fn is_draining(office: &Office) -> bool {
    office.draining.load(Ordering::Relaxed)
}

/// Bytes of a request to join, and of a list of files to warm.
const JOIN_BYTES: usize = 1 << 20;

/// For a body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a token that is made on the page admits, unless said.
const DAY: Duration = Duration::from_secs(86_400);

/// Lines that wait for a follower.
const FOLLOW_QUEUE: usize = 64;
